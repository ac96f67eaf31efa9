// Package logqueue stands between the program's log and the file that it goes to, so that a reader of the log who stops,
// or is gone, stops nothing else: whoever logs never waits.
//
// It promises that lines come out whole and in the order they were logged in, that each line is either written or counted as
// dropped, and that the log itself says where lines are missing and how many. No line is exempt from being dropped: what must
// not be lost needs another place than a log. It can't write to a file that somebody else does not read, nor end a write
// that the system holds up; Close says so.
package logqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxBytes bounds the memory of the lines that wait. It is some thousand lines, and seconds of a busy program's log.
	maxBytes = 1 << 20
	// forAll is the part of maxBytes that lines of every level may fill; the rest is for warnings and errors.
	forAll = maxBytes / 4 * 3
	// overhead is what a waiting line costs beside its text.
	overhead = 64
)

// ErrUnread is that lines could not be written in time, because nobody reads them.
var ErrUnread = errors.New("nobody reads the log")

// Drops are the numbers of lines that were dropped: there was no room, or writing them failed.
type Drops struct {
	Info    int64 // debug and info
	Warning int64 // warning and error
}

// line is one that waits.
type line struct {
	text    []byte
	warning bool
	missing int64 // how many were dropped just before it
}

func (l line) size() int { return len(l.text) + overhead }

// Queue takes lines and has one goroutine write them, from New to Close.
type Queue struct {
	out    io.Writer
	format func(io.Writer) slog.Handler
	wake   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	waiting []line
	bytes   int   // of the lines that wait and of those being written
	missing int64 // dropped since the last line that was taken
	drops   Drops
	closed  bool
}

// New returns a Queue that writes to out. format makes the handler that gives records their form, for lines and for the
// Queue's own. The caller must Close it.
func New(out io.Writer, format func(io.Writer) slog.Handler) *Queue {
	q := &Queue{out: out, format: format, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Handler returns the handler whose records go through the queue.
func (q *Queue) Handler() slog.Handler {
	return handler{info: q.format(entrance{q, false}), warning: q.format(entrance{q, true})}
}

// Drops returns how many lines were dropped so far.
func (q *Queue) Drops() Drops {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.drops
}

// Close takes no more lines and writes those that wait, for no longer than the given time. It returns ErrUnread if some are
// left then; the goroutine then ends when the write that holds it up does, or with the process.
func (q *Queue) Close(within time.Duration) error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.rouse()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-q.done:
		return nil
	case <-t.C:
		return fmt.Errorf("writing the last lines of the log within %v: %w", within, ErrUnread)
	}
}

// put takes a line if there is room for it. It never waits for the file.
func (q *Queue) put(text []byte, warning bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := forAll
	if warning {
		room = maxBytes
	}
	if l := (line{text: text, warning: warning, missing: q.missing}); !q.closed && q.bytes+l.size() <= room {
		l.text = bytes.Clone(text) // handlers use their buffers again
		q.waiting = append(q.waiting, l)
		q.bytes += l.size()
		q.missing = 0
		q.rouse()
		return
	}
	q.missing++
	q.drop(warning)
}

// drop counts a line; q.mu is held.
func (q *Queue) drop(warning bool) {
	if warning {
		q.drops.Warning++
		return
	}
	q.drops.Info++
}

func (q *Queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns the lines that wait, how many were dropped after them, and whether there will be more.
func (q *Queue) take() (lines []line, missing int64, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, missing = q.waiting, q.missing
	q.waiting, q.missing = nil, 0
	return lines, missing, !q.closed
}

func (q *Queue) run() {
	defer close(q.done)
	w := writer{out: q.out, format: q.format}
	for range q.wake {
		lines, missing, more := q.take()
		for _, l := range lines {
			w.missing += l.missing
			w.note()
			err := w.write(l.text)
			q.mu.Lock()
			q.bytes -= l.size()
			if err != nil {
				w.missing++
				q.drop(l.warning)
			}
			q.mu.Unlock()
		}
		w.missing += missing
		w.note()
		if !more {
			return
		}
	}
}

// writer writes lines to the file, and what is missing between them.
type writer struct {
	out     io.Writer
	format  func(io.Writer) slog.Handler
	missing int64 // dropped since the last line that says so
	torn    bool  // the file ends within a line
}

// note says how many lines are missing here. If it can't be written, the next one counts them too.
func (w *writer) note() {
	if w.missing == 0 {
		return
	}
	var text bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were dropped", 0)
	r.AddAttrs(slog.Int64("lines", w.missing), slog.String("cause", "the log was not read, or could not be written"))
	if err := w.format(&text).Handle(context.Background(), r); err != nil {
		return
	}
	if w.write(text.Bytes()) == nil {
		w.missing = 0
	}
}

// write writes one line. After a line that was written in part, it begins a new one first.
func (w *writer) write(text []byte) error {
	if w.torn {
		text = append([]byte("\n"), text...)
	}
	n, err := w.out.Write(text)
	if n > 0 {
		w.torn = text[n-1] != '\n'
	}
	if err != nil && n < len(text)-1 { // else only the end of the line is left, which the next one brings
		return fmt.Errorf("writing the log: %w", err)
	}
	return nil
}

// entrance takes the lines of one handler.
type entrance struct {
	q       *Queue
	warning bool
}

// Write implements io.Writer. Handlers of log/slog call it once for each record.
func (e entrance) Write(text []byte) (int, error) {
	e.q.put(text, e.warning)
	return len(text), nil
}

// handler keeps records apart by their level, which is no longer known when they are text.
type handler struct{ info, warning slog.Handler }

func (h handler) of(l slog.Level) slog.Handler {
	if l >= slog.LevelWarn {
		return h.warning
	}
	return h.info
}

// Enabled implements slog.Handler.
func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.of(l).Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.info.WithAttrs(attrs), h.warning.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.info.WithGroup(name), h.warning.WithGroup(name)}
}
