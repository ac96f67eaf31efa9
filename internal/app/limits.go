package app

import (
	"math"
	"syscall"
	"time"
)

// Limits of the listeners. What is over them is answered 503 at once, or closed.
const (
	maxBodies   = 16          // bodies of hooks without the secret that are being read
	maxWaiting  = 768         // of those, how many wait for their turn
	maxScrapes  = 4           // requests for /metrics under way
	turnTime    = time.Second // how long they wait
	bodyTime    = 5 * time.Second
	strangeIdle = 10 * time.Second // how long a connection to a port that anybody reaches may rest
)

// shares are the connections that each listener may hold.
type shares struct{ webhooks, hooks, metrics int }

// shareDescriptors divides the file descriptors of the process: half for the webhooks, so that no other port can take
// theirs, and a quarter for files and our own connections. A port that needs few gets few. GitLab sends each hook on a
// connection of its own: those of a thousand changes at once must fit in, with some of strangers.
func shareDescriptors(limit uint64) shares {
	n := int(min(limit, math.MaxInt32))
	return shares{webhooks: max(8, min(4096, n/2)), hooks: max(4, min(1984, n/8)), metrics: max(2, min(64, n/16))}
}

// descriptors returns how many files this process may have open. The Go runtime has raised that to what the system allows.
func descriptors() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024 // the usual limit
	}
	return l.Cur
}
