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

// collectSooner makes Go collect when garbage has grown by half of what is in use, not by all of it: the rounds over a large
// GitLab leave much garbage, and memory is dearer there than the processor time. GOGC in the environment wins.
func collectSooner() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// When collectInQuiet collects: nothing was to be done for quietFor, looked at each quietEvery, and garbage has grown to a quarter of
// what is in use, half of what Go would wait for; or to an eighth, and no more than settledGrowth since the last look. A heap of less
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
