//go:build unix

// Command authn measures what a token review costs. It starts the webhook and, for comparison, a constant handler (same
// TLS stack, reads the body, writes fixed bytes) as processes of their own, sends both the same load over HTTP/2 with
// client certificates, in turns, and prints lines "BENCH <name> <value> <unit>". It exits 1 if a bar of the project is
// missed. The ratios of one run can be compared between machines, the rates can't.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

type options struct {
	role     string // of a child process
	dir      string
	reviews  int
	tokens   int
	slice    time.Duration
	turns    int
	workers  int
	profiles string
	quick    bool
}

func main() {
	var o options
	flag.StringVar(&o.role, "role", "", "internal: run as one of the measured processes")
	flag.StringVar(&o.dir, "dir", "", "internal: folder of the measured process")
	flag.IntVar(&o.reviews, "reviews", 1_000_000, "reviews before the memory is looked at")
	flag.IntVar(&o.tokens, "tokens", 25_000, "distinct valid tokens, four fifths of them of people")
	flag.DurationVar(&o.slice, "slice", 2*time.Second, "length of one turn")
	flag.IntVar(&o.turns, "turns", 4, "turns of each kind of load")
	flag.IntVar(&o.workers, "workers", 32, "requests under way")
	flag.StringVar(&o.profiles, "cpuprofile", "", "folder for CPU profiles of the measured processes")
	flag.BoolVar(&o.quick, "quick", false, "no memory and no reload phase")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-authn:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	switch o.role {
	case "webhook":
		return serveWebhook(ctx, o)
	case "null":
		return serveNull(ctx, o)
	case "":
		return measure(ctx, o)
	}
	return errors.New("no such role: " + o.role)
}
