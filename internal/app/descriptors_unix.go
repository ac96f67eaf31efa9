//go:build unix

package app

import "syscall"

// descriptors returns how many files this process may have open. The Go runtime has raised that to what the system allows.
func descriptors() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024 // the usual limit
	}
	return l.Cur
}
