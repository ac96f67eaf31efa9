//go:build !linux

package main

import "syscall"

// processAttr: here a child outlives this program if that is killed by force.
func processAttr() *syscall.SysProcAttr { return nil }
