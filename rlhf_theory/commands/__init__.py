"""The commands that run studies and look at them; heavy imports wait inside each."""
