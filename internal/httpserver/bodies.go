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
	return QueuedBodies(n, 0, 0, patience, nil, next)
}

// QueuedBodies is Bodies for senders that come in bursts and do not send again: a body that finds no room waits for it, up
// to the given time, before the oldest is given up for it; that many wait, and those beyond do not. So a burst of whole
// requests gives nobody up, and a flood of half ones gains nothing but that wait. givenUp, if not nil, is called for each
// body that was given up for another one (metrics).
func QueuedBodies(n, waiting int, wait, patience time.Duration, givenUp func(), next http.Handler) http.Handler {
	p := &bodies{max: n, waiting: waiting, wait: wait, patience: patience, givenUp: givenUp, reading: list.New(), queue: list.New()}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &slowBody{ReadCloser: r.Body, all: p, control: http.NewResponseController(w)}
		defer b.leave(false)
		next.ServeHTTP(w, withBody(r, b))
	})
}

type bodies struct {
	max, waiting   int
	wait, patience time.Duration
	givenUp        func()
	mu             sync.Mutex
	reading        *list.List // of *slowBody, oldest first
	queue          *list.List // of *turn, oldest first
	promised       int        // places of turns that came and are not taken yet
}

// turn is what a body waits for.
type turn struct {
	came  chan struct{}
	given bool
}

func (p *bodies) full() bool { return p.reading.Len()+p.promised >= p.max }

// await waits for a place, if there is room to wait. It is called with the lock held, and gives it up meanwhile.
func (p *bodies) await() {
	if !p.full() || p.queue.Len() >= p.waiting {
		return
	}
	mine := &turn{came: make(chan struct{})}
	e := p.queue.PushBack(mine)
	p.mu.Unlock()
	t := time.NewTimer(p.wait)
	select {
	case <-mine.came:
	case <-t.C:
	}
	t.Stop()
	p.mu.Lock()
	if mine.given {
		p.promised--
		return
	}
	p.queue.Remove(e)
}

// pass gives a place that is free to who has waited longest.
func (p *bodies) pass() {
	if e := p.queue.Front(); e != nil {
		first := p.queue.Remove(e).(*turn)
		first.given = true
		p.promised++
		close(first.came)
	}
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
	all.await()
	// An error means a writer without deadlines (a test's): then the server's own time limit holds.
	_ = b.control.SetReadDeadline(time.Now().Add(all.patience))
	if e := all.reading.Front(); e != nil && all.full() {
		if all.givenUp != nil {
			all.givenUp()
		}
		oldest := all.reading.Remove(e).(*slowBody)
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
	b.all.pass()
	if whole {
		_ = b.control.SetReadDeadline(time.Time{}) // as above
	}
}
