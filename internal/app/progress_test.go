package app

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

func TestProgressBar(t *testing.T) {
	steps := []cluster.Progress{
		{Done: 0, Total: 4000, Elapsed: time.Second},
		{Done: 1000, Total: 4000, Elapsed: 10 * time.Second},
		{Done: 1100, Total: 4000, Elapsed: 11 * time.Second},
		{Done: 4000, Total: 4000, Elapsed: 40 * time.Second},
	}
	var lines bytes.Buffer
	report := progressBar(&lines)
	for _, p := range steps {
		report(p)
	}
	if want := "1000 of 4000 changes, 100/s, about 30s left\n4000 of 4000 changes\n"; lines.String() != want {
		t.Errorf("lines %q, want %q", lines.String(), want)
	}
	if isTerminal(&lines) {
		t.Error("a buffer is no terminal")
	}
	// A character device stands for a terminal: what is written to it can't be read, but it must take the other way.
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if !isTerminal(null) {
		t.Skip("no character device")
	}
	progressBar(null)(steps[1])
}

func TestBarText(t *testing.T) {
	var b bytes.Buffer
	drawBar(&b, cluster.Progress{Done: 1000, Total: 4000, Elapsed: 10 * time.Second})
	drawBar(&b, cluster.Progress{Done: 4000, Total: 4000, Elapsed: 40 * time.Second})
	parts := strings.Split(b.String(), "\r")
	if len(parts) != 3 || !strings.HasPrefix(parts[1], "[#######                       ] 1000 of 4000 changes, 100/s, about 30s left") ||
		!strings.HasPrefix(parts[2], "["+strings.Repeat("#", 30)+"] 4000 of 4000 changes ") || !strings.HasSuffix(parts[2], "\n") {
		t.Errorf("%q", b.String())
	}
	if len(parts[2]) < len(parts[1]) {
		t.Error("the end of a longer line stays on the screen")
	}
}
