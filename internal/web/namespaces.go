package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// People tells a person about themself: people.Service.
type People interface {
	Identity(user int64) webapi.Identity
	Namespaces(user int64, f people.Filter) (webapi.MyNamespaces, error)
	Can(user int64, q authz.Question) (webapi.Can, error)
	Changes(ctx context.Context, user int64, since time.Time) ([]webapi.Change, error)
	CI(user int64, project string) (webapi.CI, error)
	Reachable(user int64) ([]string, error)
}

// perPage is how many rows a page has.
const perPage = 50

// peoplePages are what people see about themselves, and how they reach the cluster.
type peoplePages struct{ *Site }

func (s peoplePages) routes() []route {
	return []route{
		{method: http.MethodGet, path: "/namespaces", access: signedIn, nav: "nav.namespaces", handle: s.namespaces},
		{method: http.MethodGet, path: "/namespaces/{name}", access: signedIn, handle: s.namespace},
		{method: http.MethodGet, path: "/connect", access: signedIn, nav: "nav.connect", handle: s.connect},
		{method: http.MethodGet, path: "/kubeconfig", access: signedIn, handle: s.kubeconfig},
	}
}

func (s peoplePages) helpRoutes() []route {
	return []route{{method: http.MethodGet, path: "/refused", nav: "nav.refused", handle: s.refused}}
}

// namespacesData is what namespaces.html shows.
type namespacesData struct {
	Unread bool // nothing is known yet
	Any    bool // they have some, be they found or not
	Search string
	Rows   []webapi.Namespace
	Pager  pager
	AsOf   time.Time
}

func (s peoplePages) namespaces(w http.ResponseWriter, r *http.Request, v *visit) {
	q := r.URL.Query()
	d := namespacesData{Search: short(q.Get("q"))}
	page := pageNumber(q)
	mine, err := s.o.People.Namespaces(v.session.User, people.Filter{Search: d.Search, Offset: (page - 1) * perPage, Limit: perPage})
	if errors.Is(err, people.ErrUnread) {
		d.Unread = true
		s.page(w, r, v, "namespaces", d)
		return
	}
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	d.Rows, d.AsOf, d.Any = mine.Namespaces, mine.AsOf, mine.Total > 0
	if !d.Any && d.Search != "" {
		all, err := s.o.People.Namespaces(v.session.User, people.Filter{Limit: 1})
		if err != nil {
			s.broken(w, r, v, err)
			return
		}
		d.Any = all.Total > 0
	}
	d.Pager = newPager(r.URL, page, len(d.Rows), mine.Total)
	s.page(w, r, v, "namespaces", d)
}

// namespaceData is what namespace.html shows.
type namespaceData struct {
	webapi.Namespace
	AsOf time.Time
}

func (s peoplePages) namespace(w http.ResponseWriter, r *http.Request, v *visit) {
	name := r.PathValue("name")
	mine, err := s.o.People.Namespaces(v.session.User, people.Filter{Name: name})
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	if len(mine.Namespaces) == 0 {
		s.problem(w, r, v, http.StatusNotFound, "no_namespace")
		return
	}
	s.page(w, r, v, "namespace", namespaceData{mine.Namespaces[0], mine.AsOf})
}

// broken answers for what People or Admin can't tell; not at all who has left, for whom it ended.
func (s *Site) broken(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	if r.Context().Err() != nil {
		return
	}
	d := problemData{Retry: here(r)}
	switch {
	case errors.Is(err, people.ErrUnread):
		d.Code = "unread"
	case errors.Is(err, people.ErrHistoryBusy):
		d.Code = "history_busy"
	case errors.Is(err, kubeconfig.ErrNotNow):
		d.Code = "no_file_now"
	case errors.Is(err, context.DeadlineExceeded):
		d.Code = "too_slow"
	default:
		s.sampled(r.Context(), &s.lines.failures, slog.LevelError, "page could not be made", slog.String("path", r.URL.Path), slog.Any("error", err))
		s.problem(w, r, v, http.StatusInternalServerError, "internal")
		return
	}
	if d.Code != "unread" { // which is how each process begins
		s.sampled(r.Context(), &s.lines.delays, slog.LevelWarn, "page could not be made now", slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	s.problemPage(w, r, v, http.StatusServiceUnavailable, d)
}

// pager leads through a list that is longer than a page.
type pager struct {
	Before, After   string // addresses; "": there is none
	From, To, Total int
}

// newPager returns the pager of a page with n of total rows; the addresses are those of u with another page.
func newPager(u *url.URL, page, n, total int) pager {
	at := func(page int) string {
		q := u.Query()
		q.Set("page", strconv.Itoa(page))
		return (&url.URL{Path: u.Path, RawQuery: q.Encode()}).String()
	}
	first := (page - 1) * perPage
	p := pager{From: min(first+1, total), To: first + n, Total: total}
	if page > 1 {
		p.Before = at(min(page-1, max(1, (total+perPage-1)/perPage)))
	}
	if first+n < total && n > 0 {
		p.After = at(page + 1)
	}
	return p
}

// cut returns the rows of the page that is asked for.
func cut[T any](u *url.URL, all []T) ([]T, pager) {
	page := pageNumber(u.Query())
	first := min((page-1)*perPage, len(all))
	rows := all[first:min(first+perPage, len(all))]
	return rows, newPager(u, page, len(rows), len(all))
}

// pageNumber is the page that is asked for, from 1.
func pageNumber(q url.Values) int {
	n, err := strconv.Atoi(q.Get("page"))
	if err != nil || n < 1 || n > 100_000 {
		return 1
	}
	return n
}

// ciKind is the colour of a delivery's outcome.
func ciKind(outcome string) string {
	switch outcome {
	case "delivered":
		return "good"
	case "waiting":
		return "info"
	case "failed", "frozen", "foreign", "other-cluster":
		return "warn"
	}
	return "plain"
}
