//go:build !linux

package controlplane

import "syscall"

// needWatchdog is true where no parent-death signal exists.
const needWatchdog = true

// procAttr puts a child into a process group of its own: Ctrl-C at the terminal is for us, who stop it in order.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
