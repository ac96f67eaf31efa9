package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestGarbageIsCollectedInQuiet: a large heap with much garbage, or with less that does not grow, is collected while nothing is to be
// done, and not while something is.
func TestGarbageIsCollectedInQuiet(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // only what is tested collects
	live := make([]byte, 2*largeHeap)
	for i := range live {
		live[i] = 1
	}
	for _, c := range []struct {
		busy    bool
		garbage int
	}{{true, largeHeap}, {false, largeHeap}, {false, 2 * largeHeap / 6}} {
		busy := c.busy
		runtime.GC()
		garbage := make([]byte, c.garbage)
		runtime.KeepAlive(garbage)
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

// TestGarbageOfALargePlan: while a large plan is written Go collects sooner, and then as before; but not where GOGC says otherwise.
func TestGarbageOfALargePlan(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for gogc, want := range map[string][2]int{"": {garbageOfLarge, garbagePercent}, "70": {70, 70}} {
		t.Setenv("GOGC", gogc)
		debug.SetGCPercent(70)
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan bool)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			collectLarge(ctx, func() bool {
				select {
				case asked <- true:
				case <-ctx.Done():
				}
				return true
			})
		}()
		<-asked
		<-asked // by then the first answer was taken
		if is := debug.SetGCPercent(want[0]); is != want[0] {
			t.Errorf("GOGC %q: at %d %% meanwhile, want %d", gogc, is, want[0])
		}
		cancel()
		<-ended
		if is := debug.SetGCPercent(want[1]); is != want[1] {
			t.Errorf("GOGC %q: at %d %% afterwards, want %d", gogc, is, want[1])
		}
	}
}
