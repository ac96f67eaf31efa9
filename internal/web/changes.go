package web

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func (s ownPages) changesRoutes() []route {
	return []route{{method: http.MethodGet, path: "/changes", access: signedIn, nav: "changes.nav", handle: s.changes}}
}

// spans are the days that people can look back, the first one if they choose none.
var spans = []int{30, 90, 365}

// changesData is what changes.html shows.
type changesData struct {
	None  bool // nothing is remembered in this cluster
	Days  int
	Spans []int
	Rows  []webapi.Change
	Pager pager
}

func (s ownPages) changes(w http.ResponseWriter, r *http.Request, v *visit) {
	q := r.URL.Query()
	d := changesData{Days: spans[0], Spans: spans}
	for _, days := range spans {
		if q.Get("days") == strconv.Itoa(days) {
			d.Days = days
		}
	}
	all, err := s.o.People.Changes(r.Context(), v.session.User, s.o.Now().Add(-time.Duration(d.Days)*24*time.Hour))
	switch {
	case errors.Is(err, people.ErrNoHistory):
		d.None = true
	case err != nil:
		s.broken(w, r, v, err)
		return
	}
	d.Rows, d.Pager = cut(r.URL, all)
	s.page(w, r, v, "changes", d)
}

// causeOf puts what made the integrator look into one of a few words: see syncer.Round. Of several the first that says most counts.
func causeOf(cause string) string {
	for _, word := range []string{"hook", "drift", "expiry", "approval"} {
		if strings.Contains(cause, word) {
			return word
		}
	}
	if cause == "" || cause == "unknown" {
		return "unknown"
	}
	return "round"
}
