package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

const (
	barWidth = 30
	// barLines is the time between two lines where there is no terminal.
	barLines = 10 * time.Second
)

// progressBar shows how far the writing is: a bar with an estimate on a terminal, else a line now and then.
func progressBar(w io.Writer) func(cluster.Progress) {
	if isTerminal(w) {
		return func(p cluster.Progress) { drawBar(w, p) }
	}
	var last time.Duration
	return func(p cluster.Progress) {
		if p.Elapsed-last >= barLines {
			last = p.Elapsed
			fmt.Fprintln(w, p)
		}
	}
}

// drawBar draws over the line that it drew before.
func drawBar(w io.Writer, p cluster.Progress) {
	full, end := barWidth, ""
	if p.Done < p.Total {
		full = barWidth * p.Done / p.Total
	} else {
		end = "\n"
	}
	fmt.Fprintf(w, "\r[%-*s] %-60s%s", barWidth, strings.Repeat("#", full), p, end)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
