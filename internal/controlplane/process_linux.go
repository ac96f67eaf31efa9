package controlplane

import "syscall"

// needWatchdog is false where the kernel itself ends our children with us.
const needWatchdog = false

// procAttr puts a child into a process group of its own (Ctrl-C at the terminal is for us, who stop it in
// order) and has the kernel kill it when the thread that started it ends, whatever ended that.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
