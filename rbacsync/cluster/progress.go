package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Progress says how far Apply is with a plan.
type Progress struct {
	Done, Total int // changes; Done counts those that failed, too
	Elapsed     time.Duration
}

// Rate returns how many changes were made per second so far; 0 while nothing is known.
func (p Progress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.Done) / p.Elapsed.Seconds()
}

// Left estimates the time that the rest takes, at the rate so far; false while nothing is known.
func (p Progress) Left() (time.Duration, bool) {
	if p.Done == 0 || p.Elapsed <= 0 {
		return 0, false
	}
	return time.Duration(float64(p.Elapsed) / float64(p.Done) * float64(p.Total-p.Done)), true
}

// String returns "1200 of 50000 changes, 400/s, about 2m2s left".
func (p Progress) String() string {
	text := fmt.Sprintf("%d of %d changes", p.Done, p.Total)
	if left, ok := p.Left(); ok && p.Done < p.Total {
		text += fmt.Sprintf(", %.0f/s, about %v left", p.Rate(), left.Round(time.Second))
	}
	return text
}

const (
	progressEvery = time.Second
	// progressLog is each how many-th Progress gets a line in the log.
	progressLog = 10
)

// reportProgress reports how far a plan is until ctx is done: to tell, and now and then in the log. A plan that is written
// within the first interval is not worth a word.
func reportProgress(ctx context.Context, every time.Duration, total int, done *atomic.Int64, report func(Progress), log *slog.Logger) {
	start := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		over := false
		select {
		case <-ctx.Done():
			over = true
		case <-tick.C:
		}
		p := Progress{Done: int(done.Load()), Total: total, Elapsed: time.Since(start)}
		if over && n == 1 {
			return
		}
		if report != nil {
			report(p)
		}
		if over {
			return
		}
		if left, ok := p.Left(); ok && n%progressLog == 0 {
			log.InfoContext(ctx, "changes are being made", "done", p.Done, "total", p.Total,
				"perSecond", int(p.Rate()), "left", left.Round(time.Second).String())
		}
	}
}
