package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// counting returns the client with a count of its answers.
func counting(c *http.Client) (*http.Client, *atomic.Int64) {
	counted, n := *c, new(atomic.Int64)
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	counted.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil {
			n.Add(1)
		}
		return resp, err
	})
	return &counted, n
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// progressReader shows how far the reading of GitLab is: on a terminal in one line, else with a line now and then.
type progressReader struct {
	intake.Reader
	to       io.Writer
	requests *atomic.Int64
}

// Snapshot implements intake.Reader.
func (r progressReader) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	every, before, after := barLines, "", "\n"
	if isTerminal(r.to) {
		every, before, after = 200*time.Millisecond, "\r", ""
	}
	began := time.Now()
	tell := func(end string) {
		fmt.Fprintf(r.to, "%sreading GitLab: %d requests, %d s%s", before, r.requests.Load(), int(time.Since(began).Seconds()), end)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				tell(after)
			}
		}
	})
	s, err := r.Reader.Snapshot(ctx)
	close(done)
	wg.Wait()
	if before != "" || time.Since(began) > every {
		tell("\n")
	}
	return s, err
}
