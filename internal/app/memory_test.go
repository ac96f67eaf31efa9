package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestGarbageIsCollectedInQuiet: a large heap with much garbage is collected while nothing is to be done, and not while something is.
func TestGarbageIsCollectedInQuiet(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // only what is tested collects
	live := make([]byte, 2*largeHeap)
	for i := range live {
		live[i] = 1
	}
	runtime.GC()
	garbage := make([]byte, largeHeap)
	runtime.KeepAlive(garbage)
	for _, busy := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		collectInQuiet(ctx, func() time.Duration {
			if busy {
				return 0
			}
			return quietFor
		})
		cancel()
		if runtime.ReadMemStats(&after); (after.NumGC > before.NumGC) == busy {
			t.Errorf("busy %t: %d collections", busy, after.NumGC-before.NumGC)
		}
		if after.NumGC > before.NumGC+2 {
			t.Errorf("%d collections without new garbage", after.NumGC-before.NumGC)
		}
	}
	runtime.KeepAlive(live)
}
