package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// writeTime is how long a watcher may take to receive a line.
const writeTime = 10 * time.Second

// watch writes a person's namespaces, in one line of JSON at once and at each change of them, until they or this process go, or
// their token does not count any more: then the last line is a webapi.Error. Empty lines say that it is still there.
func (a *API) watch(w http.ResponseWriter, r *asked) {
	f, err := filter(r.query)
	if err == nil {
		err = a.takeWatch(r.user)
	}
	if err != nil {
		a.refuse(w, r.Request, err)
		return
	}
	defer a.watches.end(r.user)
	list, err := a.namespaces(r, f)
	if err != nil {
		a.refuse(w, r.Request, err)
		return
	}
	// The server's time limits are for requests that end. An error means a writer without deadlines (a test's).
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", contentJSON)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep lines until there are many
	s := &stream{w: w, control: control}
	if r.Method == http.MethodHead || !s.line(list) {
		return
	}
	if last := a.follow(r, f, s, etag(list)); last != nil {
		p := problemOf(last)
		s.line(webapi.Error{Error: p.text, Code: p.code})
	}
}

func (a *API) takeWatch(user int64) error {
	full, mine := a.watches.begin(user)
	switch {
	case mine:
		return &problem{http.StatusTooManyRequests, CodeTooManyWatches, "you have too many watches open: end one of them"}
	case full:
		return &problem{http.StatusServiceUnavailable, CodeTooManyWatches, "too many people watch at a time: ask without watch=true"}
	}
	return nil
}

// follow writes what changes after the answer with that ETag. It returns why it ended; nil: the watcher is gone.
func (a *API) follow(r *asked, f people.Filter, s *stream, have string) error {
	ctx := r.Context()
	look, beat := time.NewTicker(a.o.Every), time.NewTicker(a.o.Heartbeat)
	defer look.Stop()
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.ending:
			return &problem{http.StatusServiceUnavailable, CodeEnding, "this process ends: ask again, another one answers"}
		case <-beat.C:
			if !s.empty() {
				return nil
			}
		case <-look.C:
			if err := a.stillGood(r); err != nil {
				return err
			}
			list, err := a.namespaces(r, f)
			if err != nil {
				continue // what was known is still good
			}
			if tag := etag(list); tag != have {
				if have = tag; !s.line(list) {
					return nil
				}
				beat.Reset(a.o.Heartbeat)
			}
		}
	}
}

// stillGood judges the token again. One that can't be judged at the moment was good before, until its end.
func (a *API) stillGood(r *asked) error {
	_, _, err := a.judge(r.Context(), r.token)
	if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusServiceUnavailable && a.o.Now().Before(r.until) {
		return nil
	}
	return err
}

// stream writes lines to a watcher.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s *stream) line(v any) bool {
	b, err := json.Marshal(v)
	return err == nil && s.write(append(b, '\n'))
}

func (s *stream) empty() bool { return s.write([]byte{'\n'}) }

func (s *stream) write(b []byte) bool {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTime)) // as in watch
	if _, err := s.w.Write(b); err != nil || s.control.Flush() != nil {
		return false
	}
	_ = s.control.SetWriteDeadline(time.Time{}) // HTTP/2 ends a stream whose deadline passes while nothing is written
	return true
}
