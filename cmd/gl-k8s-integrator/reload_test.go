package main

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHangupReloads: SIGHUP ends no server. It reads its configuration again: a good one is taken over, a faulty one is not, and
// says so in the log and the metrics; people log in all the time.
func TestHangupReloads(t *testing.T) {
	s := startServer(t)
	path := s.cmd.Args[3]
	lines := make(chan string, 10000)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(s.log); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	says := func(what string) {
		t.Helper()
		for deadline := time.After(20 * time.Second); ; {
			select {
			case line, open := <-lines:
				if !open {
					t.Fatalf("the process ended before it said %q", what)
				}
				if strings.Contains(line, what) {
					return
				}
			case <-deadline:
				t.Fatalf("it does not say %q", what)
			}
		}
	}
	hangup := func() {
		t.Helper()
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write := func(from, to string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(filepath.Dir(path), "new"), []byte(strings.Replace(string(text), from, to, 1)), 0o600)
		}
		if err == nil {
			err = os.Rename(filepath.Join(filepath.Dir(path), "new"), path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	says(`"msg":"starting"`)
	hangup() // as early as can be
	says("has not changed")
	for n := 0; s.logIn() != nil; n++ {
		if n > 100 {
			t.Fatal(s.logIn())
		}
		time.Sleep(100 * time.Millisecond)
	}
	is := func(want string) {
		t.Helper()
		if _, text := s.get("/metrics"); !strings.Contains(text, "\ngl_k8s_integrator_config_last_reload_successful "+want+"\n") {
			t.Errorf("the metric is not %s", want)
		}
	}
	write("[kubelogin]", "[]")
	hangup()
	says("authn.clientIDs: is missing")
	is("0")
	if err := s.logIn(); err != nil {
		t.Errorf("with a faulty file: %v", err)
	}
	write("[]", "[another]")
	hangup()
	says(`"changed":["authn.clientIDs[]"]`)
	is("1")
	if s.logIn() == nil {
		t.Error("a token of an application that is no longer configured is accepted")
	}
	write("[another]", "[another, kubelogin]")
	says("configuration taken over") // nobody asks
	if err := s.logIn(); err != nil {
		t.Error(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range lines { //nolint:revive // its last lines must be taken
		}
	}()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("the end: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it does not end")
	}
}
