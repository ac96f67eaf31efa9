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
// garbageOfLarge. Most of all is in use in a pass over everything, what was known and what is known now: then it is garbageOfEverything,
// and until the next collection, for until then Go goes by what was in use in that pass. In a burst of hooks, which needs little more
// than was in use before, it may be garbageOfBurst.
const (
	garbagePercent         = 45
	garbageOfLarge         = 25
	garbageOfEverything    = 35
	garbageOfBurst         = 80
	garbageWhileCollecting = 400
	largeFor               = 10 * time.Second // after a part of that round the next one follows at once
)

// collectSooner makes Go collect at garbagePercent.
func collectSooner() { setGarbage(garbagePercent) }

// garbageIsOurs reports whether we decide when garbage is collected: not where GOGC is in the environment.
func garbageIsOurs() bool { return os.Getenv("GOGC") == "" }

func setGarbage(percent int) {
	if garbageIsOurs() {
		debug.SetGCPercent(percent)
	}
}

// When garbage is collected, looked at each quietEvery: nothing was to be done for quietFor, and there is more of it than a quarter of
// what is in use; or than an eighth, at the end of a burst and where it has grown by no more than settledGrowth since the last look. Go
// itself begins at seven tenths of what it was told, so a burst begins below that. A heap of less than largeHeap bytes is
// collected in a few milliseconds at any time.
const (
	quietFor      = 300 * time.Millisecond
	quietEvery    = 100 * time.Millisecond
	settledGrowth = 1 << 20
	largeHeap     = 64 << 20
)

// collector has Go collect while nothing is to be done. Over a large heap a collection takes a tenth of a second and both
// processors of a small machine; and hooks come in bursts, so that a right that goes is not to meet one. The best moment is the end
// of a burst, for the next one is not expected then (docs/adr/0144, 0151, 0152).
type collector struct {
	quiet      func() time.Duration // since when there is nothing to do; 0: there is. To read everything is nothing
	everything func() bool          // whether there is a pass over everything: that is no burst, and needs most memory of all
	large      func() bool          // whether a large plan is being written
	lastLarge  time.Time
	inPass     uint64 // what was in use, by the last collection, at the last look during a pass over everything
	percent    int    // what Go was told last
	busy       bool   // at the last look
	before     uint64 // what the heap held at the last look
}

// run returns when ctx is done. While it collects, Go is told to allow much: else whoever needs memory meanwhile has to help with it, the
// more the nearer the heap is to what is allowed, and after a burst it is near or above that. So a hook could wait for a tenth of a second.
func (c *collector) run(ctx context.Context) {
	sizes := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	defer setGarbage(garbagePercent)
	for c.percent = garbagePercent; ctx.Err() == nil; wait.For(ctx, quietEvery) {
		metrics.Read(sizes)
		if c.look(sizes[0].Value.Uint64(), sizes[1].Value.Uint64(), c.quiet() < quietFor, time.Now()) {
			setGarbage(garbageWhileCollecting)
			runtime.GC()
			setGarbage(c.percent)
		}
	}
}

// look takes in how many bytes are in use and in the heap. It reports whether garbage is to be collected now; else it has told Go how
// much of it there may be.
func (c *collector) look(live, all uint64, busy bool, now time.Time) bool {
	share := live / 4
	if c.busy || all < c.before+settledGrowth {
		share = live / 8
	}
	c.busy, c.before = busy, all
	collect := !busy && live >= largeHeap && all > live+share
	if want := c.allowed(live, busy, now); want != c.percent {
		if c.percent = want; !collect {
			setGarbage(want)
		}
	}
	return collect
}

// allowed returns how much garbage there may be before Go collects, in percent of what is in use.
func (c *collector) allowed(live uint64, busy bool, now time.Time) int {
	if c.large() {
		c.lastLarge = now
	}
	everything := c.everything()
	if everything {
		c.inPass = live
	}
	switch {
	case now.Sub(c.lastLarge) < largeFor:
		return garbageOfLarge
	case everything, busy && live == c.inPass:
		return garbageOfEverything
	case busy && live >= largeHeap:
		return garbageOfBurst
	}
	return garbagePercent
}
