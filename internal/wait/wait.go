// Package wait waits, with a context, and not in step with others.
package wait

import (
	"context"
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

// Jitter varies a duration by a tenth, so that several programs don't march in step.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // not a secret
}
