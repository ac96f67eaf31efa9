//go:build !linux

package controlplane

import (
	"bytes"
	"os/exec"
	"strconv"
	"syscall"
)

// needWatchdog is true where no parent-death signal exists.
const needWatchdog = true

// procAttr puts a child into a process group of its own: Ctrl-C at the terminal is for us, who stop it in order.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// stopped reports whether a signal has stopped a process.
func stopped(pid int) bool {
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output() //nolint:noctx // ends at once
	return err == nil && bytes.HasPrefix(bytes.TrimSpace(out), []byte("T"))
}
