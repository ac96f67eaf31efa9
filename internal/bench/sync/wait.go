package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// firstRound waits until everything that is wanted was written, or, if a build wants something else than this one,
// until it has done a full round and writes nothing more. It shows how far it is, and returns how many objects were
// written and when the first and the last one were, reckoned from the start of the program.
func (s *side) firstRound(ctx context.Context, say io.Writer, want int, started time.Time) (n int, writing, took time.Duration, err error) {
	deadline := started.Add(20 * time.Minute)
	before, since := -1, time.Now()
	for tries := 0; ; tries++ {
		if err := errors.Join(s.cluster.audit.read(), s.serve.alive()); err != nil {
			return 0, 0, 0, err
		}
		first, last, n := s.cluster.audit.planned(0)
		if n != before {
			before, since = n, time.Now()
		}
		ok, _ := s.serve.fullRounds(ctx)
		if n >= want || n > 0 && ok > 0 && time.Since(since) > 5*time.Second {
			fmt.Fprintf(say, "\n%d objects written in %.1f s\n", n, last.Sub(first).Seconds())
			return n, last.Sub(first), last.Sub(started), nil
		}
		if tries%4 == 0 {
			progress(say, n, want, last.Sub(first))
		}
		if time.Now().After(deadline) {
			return 0, 0, 0, fmt.Errorf("20 minutes after the start only %d of %d objects are there", n, want)
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return 0, 0, 0, err
		}
	}
}

func progress(w io.Writer, n, want int, took time.Duration) {
	const width = 30
	done := width * n / max(want, 1)
	fmt.Fprintf(w, "\r  [%-*s] %d of %d objects", width, string(slices.Repeat([]byte("#"), done)), n, want)
	if n > 0 && took > time.Second {
		per := float64(n) / took.Seconds()
		fmt.Fprintf(w, ", %.0f/s, about %.0f s left   ", per, float64(want-n)/per)
	}
}

// quiet waits until the program has written nothing for a while.
func (c *cluster) quiet(ctx context.Context, d time.Duration) error {
	count, since := -1, time.Now()
	for {
		if err := c.audit.read(); err != nil {
			return err
		}
		n := 0
		for _, w := range c.audit.writes {
			if !w.steady() {
				n++
			}
		}
		if n != count {
			count, since = n, time.Now()
		}
		if time.Since(since) > d {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// ready waits until it has read everything and is quiet in its cluster.
func (p *serve) ready(ctx context.Context, c *cluster) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if err := p.alive(); err != nil {
			return err
		}
		if ok, _ := p.fullRounds(ctx); ok > 0 {
			return c.quiet(ctx, time.Second)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the program did no full round within 2 minutes; its log ends with:\n%s", p.lastWords())
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// steady waits for two more full rounds and returns what they wrote.
func (s *side) steady(ctx context.Context, interval time.Duration) ([]write, error) {
	from := len(s.cluster.audit.writes)
	ok, _ := s.serve.fullRounds(ctx)
	for deadline := time.Now().Add(4*interval + 3*time.Minute); ; {
		now, failed := s.serve.fullRounds(ctx)
		if now >= ok+2 {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no two full rounds in a steady GitLab: %d good, %d failed", now, failed)
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	if err := s.cluster.audit.read(); err != nil {
		return nil, err
	}
	return s.cluster.audit.writes[from:], nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
