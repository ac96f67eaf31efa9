package controlplane

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// needWatchdog is false where the kernel itself ends our children with us.
const needWatchdog = false

// procAttr puts a child into a process group of its own (Ctrl-C at the terminal is for us, who stop it in
// order) and has the kernel kill it when the thread that started it ends, whatever ended that.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// stopped reports whether a signal has stopped all threads of a process.
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if _, after, ok := bytes.Cut(stat, []byte(") ")); err != nil || !ok || after[0] != 'T' {
			return false
		}
	}
	return err == nil && len(threads) > 0
}
