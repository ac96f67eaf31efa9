package app

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// heapFloor returns memory that is never touched, and so is never resident, but counts when Go decides how much garbage
// may gather. With a small GitLab the live heap is so small that reviews would else start the collector a dozen times a
// second, for a tenth of their processor time; with a large one this changes nothing.
func heapFloor() []byte { return make([]byte, 16<<20) }

// Go collects when garbage has grown by garbagePercent of what is in use, not by all of it: the rounds over a large GitLab leave much
// garbage, and memory is dearer there than the processor time. While the first round is written most is in use, and it is
// garbageOfLarge.
const (
	garbagePercent = 50
	garbageOfLarge = 25
	largeFor       = 10 * time.Second // after a part of that round the next one follows at once
)

// collectSooner makes Go collect at garbagePercent. GOGC in the environment wins.
func collectSooner() { setGarbage(garbagePercent) }

func setGarbage(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// collectLarge makes Go collect at garbageOfLarge while a large plan is written, and for largeFor after that. It returns when ctx is
// done.
func collectLarge(ctx context.Context, large func() bool) {
	var last time.Time
	for is := garbagePercent; ctx.Err() == nil; wait.For(ctx, time.Second) {
		if large() {
			last = time.Now()
		}
		want := garbagePercent
		if time.Since(last) < largeFor {
			want = garbageOfLarge
		}
		if want != is {
			is = want
			setGarbage(want)
		}
	}
	setGarbage(garbagePercent)
}

// When collectInQuiet collects: nothing was to be done for quietFor, looked at each quietEvery, and garbage has grown to a quarter of
// what is in use, half of what Go waits for else; or to an eighth, and no more than settledGrowth since the last look. A heap of less
// than largeHeap bytes is collected in a few milliseconds at any time.
const (
	quietFor      = 300 * time.Millisecond
	quietEvery    = 100 * time.Millisecond
	settledGrowth = 1 << 20
	largeHeap     = 64 << 20
)

// collectInQuiet has Go collect while nothing is to be done, until ctx is done; quiet returns for how long there was nothing. Over a
// large heap a collection takes a tenth of a second and half of the processor, and hooks come in bursts: a right that goes is not to
// meet one (docs/adr/0144). While GitLab is being read as a whole it collects as well, and the heap grows less high.
func collectInQuiet(ctx context.Context, quiet func() time.Duration) {
	sizes := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	var before uint64
	for ; ctx.Err() == nil; wait.For(ctx, quietEvery) {
		if quiet() < quietFor {
			before = 0
			continue
		}
		metrics.Read(sizes)
		live, all := sizes[0].Value.Uint64(), sizes[1].Value.Uint64()
		share := live / 4
		if all < before+settledGrowth {
			share = live / 8
		}
		if before = all; live >= largeHeap && all > live+share {
			runtime.GC()
		}
	}
}
