package main

import "syscall"

// processAttr has the kernel kill a child when this program ends in any way, also while the child is stopped.
func processAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
