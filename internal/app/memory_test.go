package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func never() bool { return false }

// TestGarbageIsCollectedInQuiet: a large heap with much garbage is collected while nothing is to be done, and not while something is;
// one with little garbage is left alone.
func TestGarbageIsCollectedInQuiet(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // only what is tested collects
	t.Setenv("GOGC", "1000")
	live := make([]byte, 2*largeHeap)
	for i := range live {
		live[i] = 1
	}
	for _, c := range []struct {
		busy    bool
		garbage int
		want    bool
	}{{true, largeHeap, false}, {false, largeHeap, true}, {false, 2 * largeHeap / 6, true}, {false, 1 << 20, false}} {
		runtime.GC()
		garbage := make([]byte, c.garbage)
		runtime.KeepAlive(garbage)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		(&collector{large: never, everything: never, quiet: func() time.Duration {
			if c.busy {
				return 0
			}
			return quietFor
		}}).run(ctx)
		cancel()
		if runtime.ReadMemStats(&after); (after.NumGC > before.NumGC) != c.want {
			t.Errorf("busy %t, %d MiB of garbage: %d collections", c.busy, c.garbage>>20, after.NumGC-before.NumGC)
		}
		if after.NumGC > before.NumGC+2 {
			t.Errorf("%d collections without new garbage", after.NumGC-before.NumGC)
		}
	}
	runtime.KeepAlive(live)
}

// TestCollectingLeavesItAsItWas: what Go is told for the time of a collection does not stay.
func TestCollectingLeavesItAsItWas(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "")
	live := make([]byte, 2*largeHeap)
	for i := range live {
		live[i] = 1
	}
	runtime.GC()
	garbage := make([]byte, 3*largeHeap/4)
	runtime.KeepAlive(garbage)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	(&collector{large: never, everything: never, quiet: func() time.Duration { return quietFor }}).run(ctx)
	runtime.ReadMemStats(&after)
	if after.NumForcedGC == before.NumForcedGC {
		t.Error("nothing was collected: this test shows nothing")
	}
	if is := debug.SetGCPercent(100); is != garbagePercent {
		t.Errorf("afterwards at %d %%, want %d", is, garbagePercent)
	}
	runtime.KeepAlive(live)
}

// TestHowMuchGarbageThereMayBe: little while a large plan is written and shortly after, and more in a burst.
func TestHowMuchGarbageThereMayBe(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name  string
		large bool
		since time.Duration // of the last large plan
		burst bool
		live  uint64
		want  int
	}{
		{"in quiet", false, time.Hour, false, 2 * largeHeap, garbagePercent},
		{"a large plan is written", true, time.Hour, true, 2 * largeHeap, garbageOfLarge},
		{"it was a moment ago", false, largeFor - time.Second, true, 2 * largeHeap, garbageOfLarge},
		{"it was some time ago", false, largeFor, false, 2 * largeHeap, garbagePercent},
		{"a burst", false, time.Hour, true, 2 * largeHeap, garbageOfBurst},
		{"a burst over a small heap", false, time.Hour, true, largeHeap / 2, garbagePercent},
	} {
		k := collector{large: func() bool { return c.large }, everything: never, lastLarge: now.Add(-c.since)}
		if got := k.allowed(c.live, c.burst, now); got != c.want {
			t.Errorf("%s: %d %%, want %d", c.name, got, c.want)
		}
	}
}

// TestGarbageAfterABurst is collected at once, if it is worth it, and not in the burst.
func TestGarbageAfterABurst(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	t.Setenv("GOGC", "100")
	everything := false
	c := collector{large: never, everything: func() bool { return everything }, lastLarge: time.Now().Add(-time.Hour), percent: garbagePercent}
	const mib = 1 << 20
	for n, x := range []struct {
		live, all  uint64
		busy       bool
		everything bool // there is a pass over everything
		want       bool
		percent    int
	}{
		{160 * mib, 240 * mib, false, false, true, garbagePercent},
		{130 * mib, 160 * mib, false, false, true, garbagePercent},  // some garbage, that does not grow
		{130 * mib, 135 * mib, false, false, false, garbagePercent}, // little
		{130 * mib, 155 * mib, false, false, false, garbagePercent}, // it grows
		{130 * mib, 170 * mib, true, false, false, garbageOfBurst},  // a burst
		{130 * mib, 250 * mib, true, false, false, garbageOfBurst},
		{130 * mib, 252 * mib, true, true, false, garbageOfEverything}, // in which everything is looked at
		{187 * mib, 190 * mib, true, true, false, garbageOfEverything},
		{187 * mib, 200 * mib, true, false, false, garbageOfEverything}, // so much is not in use any more
		{131 * mib, 140 * mib, true, false, false, garbageOfBurst},
		{130 * mib, 253 * mib, false, false, true, garbagePercent}, // its end
		{130 * mib, 132 * mib, false, false, false, garbagePercent},
		{130 * mib, 135 * mib, true, false, false, garbageOfBurst},
		{130 * mib, 145 * mib, false, false, false, garbagePercent}, // the end of one that left little
		{130 * mib, 140 * mib, true, false, false, garbageOfBurst},
		{130 * mib, 150 * mib, false, false, true, garbagePercent},
	} {
		everything = x.everything
		if got := c.look(x.live, x.all, x.busy, time.Now()); got != x.want || c.percent != x.percent {
			t.Errorf("look %d: %t at %d %%, want %t at %d %%", n, got, c.percent, x.want, x.percent)
		}
	}
}

// TestGarbageAsItIsConfigured: what Go is told follows, and ends with the leader; but not where GOGC says otherwise.
func TestGarbageAsItIsConfigured(t *testing.T) { //nolint:paralleltest // it changes how often Go collects
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for gogc, want := range map[string][2]int{"": {garbageOfLarge, garbagePercent}, "70": {70, 70}} {
		t.Setenv("GOGC", gogc)
		debug.SetGCPercent(70)
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan bool)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			(&collector{quiet: func() time.Duration { return 0 }, everything: never, large: func() bool {
				select {
				case asked <- true:
				case <-ctx.Done():
				}
				return true
			}}).run(ctx)
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
