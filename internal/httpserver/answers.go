package httpserver

import (
	"bytes"
	"container/list"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// answerOverhead is what an answer that is being written holds beside its body: the stack of its goroutine.
const answerOverhead = 32 << 10

// Answers bounds what answers hold that are whole and on their way to their readers. Nobody has to make them any more, so they need
// no slot of Limit, and whoever reads slowly, or not at all, keeps nobody else out. When all of them together hold more than the
// bound, the oldest are given up for the next one: what is read at once is gone in a moment.
type Answers struct {
	most    int64
	mu      sync.Mutex
	held    int64
	writing *list.List // of *sending, the oldest first
}

// NewAnswers returns Answers that hold at most so many bytes together, or a single one that has more.
func NewAnswers(most int64) *Answers { return &Answers{most: most, writing: list.New()} }

type sending struct {
	size    int64
	control *http.ResponseController
	place   *list.Element // in Answers.writing; nil: it was given up
}

// Send writes a whole answer. The headers are those of w.
func (a *Answers) Send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	s := &sending{size: int64(len(body)) + answerOverhead, control: http.NewResponseController(w)}
	a.enter(s)
	defer a.leave(s)
	if h := w.Header(); len(body) > 0 && h.Get("Content-Length") == "" {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if len(body) == 0 || r.Method == http.MethodHead {
		return
	}
	// The caller is gone, or was given up, if these fail. Without Flush the last bytes would be written after this.
	if _, err := w.Write(body); err == nil {
		_ = s.control.Flush()
	}
}

func (a *Answers) enter(s *sending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for e := a.writing.Front(); e != nil && a.held+s.size > a.most; e = a.writing.Front() {
		oldest := a.writing.Remove(e).(*sending)
		oldest.place = nil
		a.held -= oldest.size
		// An error means a writer without deadlines (a test's): then the server's own time limit holds.
		_ = oldest.control.SetWriteDeadline(time.Now())
	}
	a.held += s.size
	s.place = a.writing.PushBack(s)
}

func (a *Answers) leave(s *sending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.place != nil {
		a.writing.Remove(s.place)
		s.place = nil
		a.held -= s.size
	}
}

// Buffered keeps what next answers until next has ended, and sends it then: with Limit inside of it, a slot is held for as long as
// an answer is made, and not while it is read. What is longer than most bytes is written as it comes.
func (a *Answers) Buffered(most int, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &bufferedWriter{ResponseWriter: w, most: most, status: http.StatusOK}
		next.ServeHTTP(b, r)
		if !b.through {
			a.Send(w, r, b.status, b.body.Bytes())
		}
	})
}

type bufferedWriter struct {
	http.ResponseWriter
	most    int
	status  int
	written bool // there is a status
	body    bytes.Buffer
	through bool // it was longer, and what comes is written
}

// WriteHeader implements http.ResponseWriter.
func (w *bufferedWriter) WriteHeader(status int) {
	if !w.written && status >= http.StatusOK {
		w.written, w.status = true, status
	}
}

// Write implements http.ResponseWriter.
func (w *bufferedWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if !w.through && w.body.Len()+len(b) <= w.most {
		return w.body.Write(b)
	}
	if !w.through {
		w.through = true
		w.ResponseWriter.WriteHeader(w.status)
		if _, err := w.ResponseWriter.Write(w.body.Bytes()); err != nil {
			return 0, err
		}
		w.body = bytes.Buffer{}
	}
	return w.ResponseWriter.Write(b)
}

// FlushError says that there is nothing to flush to: an answer is sent when it is whole.
func (w *bufferedWriter) FlushError() error { return http.ErrNotSupported }

// Unwrap serves http.ResponseController.
func (w *bufferedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
