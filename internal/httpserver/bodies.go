package httpserver

import (
	"container/list"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// Bodies bounds what half-sent requests hold: a body must be there within patience of its first reading, and of at most n
// that are being read at a time the oldest is given up for the next one. Reading such a body fails. What its sender sends
// at once is read in a moment, so a flood of slow ones hinders nobody else.
func Bodies(n int, patience time.Duration, next http.Handler) http.Handler {
	p := &bodies{max: n, patience: patience, reading: list.New()}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &slowBody{ReadCloser: r.Body, all: p, control: http.NewResponseController(w)}
		defer b.leave(false)
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

type bodies struct {
	max      int
	patience time.Duration
	mu       sync.Mutex
	reading  *list.List // oldest first
}

type slowBody struct {
	io.ReadCloser
	all     *bodies
	control *http.ResponseController
	started bool
	place   *list.Element // in all.reading; nil: not there (any more)
}

// Read implements io.Reader.
func (b *slowBody) Read(p []byte) (int, error) {
	if !b.started {
		b.started = true
		b.enter()
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.leave(errors.Is(err, io.EOF))
	}
	return n, err
}

func (b *slowBody) enter() {
	all := b.all
	all.mu.Lock()
	defer all.mu.Unlock()
	// An error means a writer without deadlines (a test's): then the server's own time limit holds.
	_ = b.control.SetReadDeadline(time.Now().Add(all.patience))
	if all.reading.Len() >= all.max {
		oldest := all.reading.Front().Value.(*slowBody)
		all.reading.Remove(oldest.place)
		oldest.place = nil
		_ = oldest.control.SetReadDeadline(time.Now()) // as above
	}
	b.place = all.reading.PushBack(b)
}

// leave gives up the place. The time limit ends with a body that was read, so that it does not end the request; any other
// keeps it, for net/http reads what is left before it answers.
func (b *slowBody) leave(whole bool) {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	if b.place == nil {
		return
	}
	b.all.reading.Remove(b.place)
	b.place = nil
	if whole {
		_ = b.control.SetReadDeadline(time.Time{}) // as above
	}
}
