package gitlab

import (
	"context"
	"sync/atomic"
	"time"
)

// sourceTimeout is how long the reading of one group, project or user may take, all its requests, repetitions and pauses included:
// what GitLab does not answer about one thing delays nothing else for longer. Pages of lists and of GraphQL have the time-out of the
// HTTP client.
const sourceTimeout = 4 * time.Second

// single marks the requests about one thing. left is what remains of its time; it is used by one goroutine.
type single struct {
	urgent bool          // the context has the deadline; else only the requests count, not what they wait for their turn
	left   time.Duration // without urgent
	tries  int           // of the present request
}

type singleKey struct{}

func singleOf(ctx context.Context) *single {
	s, _ := ctx.Value(singleKey{}).(*single)
	return s
}

// urgent reports whether a request belongs to a targeted reading.
func urgent(ctx context.Context) bool {
	s := singleOf(ctx)
	return s != nil && s.urgent
}

// urgently returns a context for one thing of a targeted reading, which waits for nothing longer than d.
func urgently(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithValue(ctx, singleKey{}, &single{urgent: true}), d)
}

// fullRequests marks the requests of a reading of everything. yielded is how long, in nanoseconds, they have waited for urgent ones.
type fullRequests struct{ yielded atomic.Int64 }

type everythingKey struct{}

// forEverything returns the context for a reading of everything, whose requests let urgent ones go first.
func forEverything(ctx context.Context) context.Context {
	return context.WithValue(ctx, everythingKey{}, &fullRequests{})
}

// everythingOf returns what a request is part of; nil: something else.
func everythingOf(ctx context.Context) *fullRequests {
	e, _ := ctx.Value(everythingKey{}).(*fullRequests)
	return e
}

// briefly returns a context for one thing of a full reading: its requests may take d in all. For their turn they wait as long as
// GitLab's limits want it.
func briefly(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, singleKey{}, &single{left: d})
}

// begin returns the context for one request that has got its turn, and what ends it.
func begin(ctx context.Context) (context.Context, func()) {
	s := singleOf(ctx)
	if s == nil {
		return ctx, func() {}
	}
	if s.urgent {
		return ctx, func() {}
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.left)
	return ctx, func() {
		cancel()
		s.left -= time.Since(start)
	}
}

// tooLate reports whether a wait would pass the context's deadline.
func tooLate(ctx context.Context, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && d > 0 && time.Until(deadline) <= d
}
