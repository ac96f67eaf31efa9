// Package logsample keeps what strangers can cause as often as they like from filling the log.
package logsample

import (
	"sync/atomic"
	"time"
)

// pause is the least time between two lines.
const pause = time.Second

// Lines lets one line per second through and counts the others. Its zero value is ready.
type Lines struct {
	next       atomic.Int64 // Unix nanoseconds
	suppressed atomic.Int64
}

// Allow reports whether a line may be written now, and how many were not since the last one.
func (l *Lines) Allow(now time.Time) (suppressed int64, ok bool) {
	next := l.next.Load()
	if now.UnixNano() < next || !l.next.CompareAndSwap(next, now.Add(pause).UnixNano()) {
		l.suppressed.Add(1)
		return 0, false
	}
	return l.suppressed.Swap(0), true
}
