// Package wait waits, with a context, and not in step with others.
package wait

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// For waits for d, or until ctx is done. Whoever has to know which of the two it was asks ctx.
func For(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// lookEvery is the pause between two looks of While.
const lookEvery = 5 * time.Millisecond

// While waits while busy returns true, looking every few milliseconds, for patience at most, or until ctx is done.
func While(ctx context.Context, patience time.Duration, busy func() bool) {
	for end := time.Now().Add(patience); busy() && ctx.Err() == nil && time.Now().Before(end); {
		For(ctx, lookEvery)
	}
}

// Jitter varies a duration by a tenth, so that several programs don't march in step.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // not a secret
}

// ErrTaken says that somebody else had the turn all the time.
var ErrTaken = errors.New("somebody else has the turn")

// Turn takes the turn of a channel with room for one, by putting something into it; whoever takes it out again gives the turn back. It
// waits for patience at most, and returns ErrTaken then, or ctx's error.
func Turn(ctx context.Context, turn chan<- struct{}, patience time.Duration) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case turn <- struct{}{}:
		return nil
	case <-t.C:
		return ErrTaken
	case <-ctx.Done():
		return ctx.Err()
	}
}
