package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestCommandsOfTheHistoryPage: each command on the page has flags that there are, with values that can be: what fails is the
// configuration alone, which is not here.
func TestCommandsOfTheHistoryPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/history.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(page)) {
		rest, ok := strings.CutPrefix(line, "gl-k8s-integrator history ")
		if !ok {
			continue
		}
		n++
		var out bytes.Buffer
		cmd := historyCommand(streams{out: &out})
		cmd.SetArgs(strings.Fields(rest))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "config.yaml") {
			t.Errorf("%s: %v", strings.TrimSpace(line), err)
		}
	}
	if n < 6 {
		t.Errorf("the page has %d commands", n)
	}
}
