"""The daemon: triggers into one queue, one preparing loop, one worker a peer (DESIGN 3). Entry: service.run_daemon."""
