package web

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	linkShown  = time.Minute      // how long an answer decides whether the link to the pages for administrators is shown
	linkRetry  = 10 * time.Second // the same of no answer
	linkGlance = time.Second      // how long another page waits for one
	maxAnswers = 1000
)

// adminGate remembers who is an administrator, for showing a link and nothing else.
type adminGate struct {
	mu   sync.Mutex
	last map[int64]adminAnswer
}

type adminAnswer struct {
	until time.Time
	is    bool
}

func (g *adminGate) get(user int64, now time.Time) (is, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.last[user]
	return a.is, ok && now.Before(a.until)
}

func (g *adminGate) note(user int64, is bool, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last == nil || len(g.last) >= maxAnswers {
		g.last = map[int64]adminAnswer{}
	}
	g.last[user] = adminAnswer{until, is}
}

// isAdmin reports whether somebody is an administrator now. Who was none at their sign-in does not make us ask.
func (s adminPages) isAdmin(ctx context.Context, v *visit) (bool, error) {
	if s.o.Admin == nil || v.session == nil || !v.session.Admin {
		return false, nil
	}
	is, err := s.o.Admin.Is(ctx, v.session.User)
	now := s.o.Now()
	if err != nil {
		s.log(ctx, "whether they are an administrator could not be read", v.session.User, slog.Any("error", err))
		s.admins.note(v.session.User, false, now.Add(linkRetry))
		return false, err
	}
	s.admins.note(v.session.User, is, now.Add(linkShown))
	return is, nil
}

// showsAdmin reports whether the link to the pages for administrators is shown.
func (s adminPages) showsAdmin(ctx context.Context, v *visit) bool {
	if v.session == nil || !v.session.Admin {
		return false
	}
	if is, known := s.admins.get(v.session.User, s.o.Now()); known {
		return is
	}
	ctx, cancel := context.WithTimeout(ctx, linkGlance)
	defer cancel()
	is, err := s.isAdmin(ctx, v)
	return is && err == nil
}

// admit returns the route that somebody gets who asks for one of administrators: everybody else gets exactly what a path gets that
// there is none of. It answers itself, and returns false, where it is not known: only to who was one at the sign-in.
func (s adminPages) admit(w http.ResponseWriter, r *http.Request, v *visit, rt route) (route, bool) {
	is, err := s.isAdmin(r.Context(), v)
	switch {
	case err != nil:
		s.problemPage(w, r, v, http.StatusServiceUnavailable, problemData{Code: "admin_unknown", Retry: here(r)})
		return rt, false
	case !is:
		return s.nowhere(), true
	}
	return rt, true
}

// nowhere is the route of all paths that there are none of.
func (s *Site) nowhere() route {
	return route{access: anybody, handle: func(w http.ResponseWriter, r *http.Request, v *visit) { s.notFound(w, r, v) }}
}
