package app

import (
	"os"
	"runtime/debug"
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
