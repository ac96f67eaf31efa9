package main

import (
	"errors"
	"io"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestASecondSignalEndsAtOnce: after the first one people can still log in for as long as listeners.drainDelay says; whoever does not
// want to wait for that sends another one.
func TestASecondSignalEndsAtOnce(t *testing.T) {
	s := startServer(t, "  drainDelay: 1m\n")
	go func() { _, _ = io.Copy(io.Discard, s.log) }()
	s.ready()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if code, _ := s.get("/readyz"); code == http.StatusServiceUnavailable {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("it says that it is ready after SIGTERM")
		}
	}
	if err := s.logIn(); err != nil {
		t.Errorf("logging in while it ends: %v", err)
	}
	select {
	case err := <-s.ended:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM { //nolint:forcetypeassert // of Linux
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits after a second signal")
	}
}
