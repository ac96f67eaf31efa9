//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// client sends reviews as kube-apiserver does: over HTTP/2 connections that stay, with its client certificate.
type client struct {
	url   string
	tls   *tls.Config
	conns []*http.Transport
}

// connections is how many connections there are: one for each API server of a control plane of three.
const connections = 3

func newClient(url string, pool *x509.CertPool, pair tls.Certificate) *client {
	c := &client{url: url, tls: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}}
	for range connections {
		c.conns = append(c.conns, c.transport())
	}
	return c
}

func (c *client) transport() *http.Transport {
	return &http.Transport{TLSClientConfig: c.tls.Clone(), ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
}

func (c *client) close() {
	for _, t := range c.conns {
		t.CloseIdleConnections()
	}
}

// post sends one body and reports whether the answer holds want.
func (c *client) post(ctx context.Context, t *http.Transport, body, want []byte, scratch *bytes.Buffer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/authenticate", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	scratch.Reset()
	_, err = scratch.ReadFrom(io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2:
		return fmt.Errorf("answer %s %s: %s", resp.Proto, resp.Status, scratch)
	case !bytes.Contains(scratch.Bytes(), want):
		return fmt.Errorf("answer without %q: %s", want, scratch)
	}
	return nil
}

// result is what a load gave.
type result struct {
	sent, failed int64
	lastErr      error
	elapsed      time.Duration
	cpu          time.Duration // of the measured process
	latencies    []time.Duration
}

func (r *result) add(o result) {
	r.sent, r.failed, r.elapsed, r.cpu = r.sent+o.sent, r.failed+o.failed, r.elapsed+o.elapsed, r.cpu+o.cpu
	if o.lastErr != nil {
		r.lastErr = o.lastErr
	}
}

func (r *result) rate() float64   { return float64(r.sent) / r.elapsed.Seconds() }
func (r *result) cpuPer() float64 { return float64(r.cpu.Nanoseconds()) / float64(r.sent) / 1000 }

func (r *result) quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	slices.Sort(r.latencies)
	return r.latencies[int(q*float64(len(r.latencies)-1))]
}

// load is one kind of requests.
type load struct {
	bodies [][]byte
	want   []byte
	at     atomic.Uint64 // the next body: each load goes on where it stopped, so that tokens don't repeat early
}

// full sends with all workers for some time, or until count reviews are sent.
func (c *client) full(ctx context.Context, l *load, workers int, d time.Duration, count int64) result {
	var (
		r    result
		mu   sync.Mutex
		all  sync.WaitGroup
		sent atomic.Int64
	)
	begin := time.Now()
	for w := range workers {
		all.Go(func() {
			var scratch bytes.Buffer
			var failed int64
			var lastErr error
			for ctx.Err() == nil && (d == 0 || time.Since(begin) < d) && (count == 0 || sent.Load() < count) {
				body := l.bodies[l.at.Add(1)%uint64(len(l.bodies))]
				if err := c.post(ctx, c.conns[w%len(c.conns)], body, l.want, &scratch); err != nil {
					failed, lastErr = failed+1, err
				}
				sent.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			r.failed += failed
			if lastErr != nil {
				r.lastErr = lastErr
			}
		})
	}
	all.Wait()
	r.sent, r.elapsed = sent.Load(), time.Since(begin)
	return r
}

// paced sends at a rate, whatever the answers take, and measures each from the moment it was due.
func (c *client) paced(ctx context.Context, l *load, rate float64, d time.Duration) result {
	var r result
	var mu sync.Mutex
	var all sync.WaitGroup
	const workers = 128
	due := make(chan time.Time, 1<<16)
	begin := time.Now()
	for w := range workers {
		all.Go(func() {
			var scratch bytes.Buffer
			var mine []time.Duration
			var failed int64
			for t := range due {
				body := l.bodies[l.at.Add(1)%uint64(len(l.bodies))]
				if c.post(ctx, c.conns[w%len(c.conns)], body, l.want, &scratch) != nil {
					failed++
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			r.latencies = append(r.latencies, mine...)
			r.failed += failed
		})
	}
	for n := 0; time.Since(begin) < d && ctx.Err() == nil; {
		for target := int(time.Since(begin).Seconds() * rate); n < target; n++ {
			due <- begin.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		}
		time.Sleep(200 * time.Microsecond)
	}
	close(due)
	all.Wait()
	r.sent, r.elapsed = int64(len(r.latencies)), time.Since(begin)
	return r
}
