package web

import (
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
)

const (
	findMost = 25 // people and namespaces that a search shows
	heldFew  = 5  // lines of a part in the list of what is held
)

// adminPages are the pages for administrators.
type adminPages struct{ *Site }

func (s adminPages) adminRoutes() []route {
	if s.o.Admin == nil {
		return nil
	}
	get := func(path, nav string, handle func(http.ResponseWriter, *http.Request, *visit)) route {
		return route{method: http.MethodGet, path: path, access: administrators, nav: nav, handle: handle}
	}
	return []route{
		get("/admin", "admin.nav", s.adminStatus),
		get("/admin/findings", "", s.adminFindings),
		get("/admin/held", "", s.adminHeld),
		get("/admin/held/{hash}", "", s.adminHeldPart),
		{method: http.MethodPost, path: "/admin/held/{hash}", access: administrators, handle: s.adminApprove},
		get("/admin/search", "", s.adminSearch),
		get("/admin/people/{id}", "", s.adminUser),
		get("/admin/namespaces/{name}", "", s.adminNamespace),
		get("/admin/explain", "", s.adminExplain),
	}
}

// adminData is what the pages for administrators show.
type adminData struct {
	Tab    string // which of them it is
	Status AdminStatus
	Parts  []HeldPart
	Notice string // "done": a part was approved just now; "gone", "changed": what was to be shown or approved is not held any more
	Few    int

	Search    string
	Found     AdminFound
	User      AdminUser
	Namespace AdminNamespace
	Pager     pager

	asked
	Who         string
	Verbs       []whatFor
	Asked       bool
	Unknown     bool // there is no such person
	Explanation explain.Report
}

// Part is the one that a page is about.
func (d adminData) Part() HeldPart { return d.Parts[0] }

// AskedNamespace is the one in the form.
func (d adminData) AskedNamespace() string { return d.asked.Namespace }

func (s adminPages) adminStatus(w http.ResponseWriter, r *http.Request, v *visit) {
	s.withStatus(w, r, v, "admin")
}

func (s adminPages) adminFindings(w http.ResponseWriter, r *http.Request, v *visit) {
	s.withStatus(w, r, v, "adminfindings")
}

func (s adminPages) withStatus(w http.ResponseWriter, r *http.Request, v *visit, page string) {
	st, err := s.o.Admin.Status(r.Context())
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	s.page(w, r, v, page, adminData{Tab: page, Status: st})
}

func (s adminPages) adminHeld(w http.ResponseWriter, r *http.Request, v *visit) {
	notice := ""
	if r.URL.Query().Get("done") != "" {
		notice = "done"
	}
	s.heldList(w, r, v, http.StatusOK, notice)
}

// heldList shows what is held now.
func (s adminPages) heldList(w http.ResponseWriter, r *http.Request, v *visit, status int, notice string) {
	parts, err := s.o.Admin.Held(r.Context())
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	s.write(w, r, v, status, "adminheld", adminData{Tab: "adminheld", Parts: parts, Few: heldFew, Notice: notice})
}

// heldHash is the form of rbacsync.HashOf.
var heldHash = regexp.MustCompile(`^[0-9a-f]{16}$`)

// adminHeldPart shows all of a part, and asks whether it shall go on.
func (s adminPages) adminHeldPart(w http.ResponseWriter, r *http.Request, v *visit) {
	parts, err := s.o.Admin.Held(r.Context())
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	i := slices.IndexFunc(parts, func(p HeldPart) bool { return p.Hash == r.PathValue("hash") })
	if i < 0 {
		s.heldList(w, r, v, http.StatusConflict, "gone")
		return
	}
	s.page(w, r, v, "adminheldpart", adminData{Tab: "adminheld", Parts: parts[i : i+1]})
}

// adminApprove lets a part go on: the one whose content the person saw, or none.
func (s adminPages) adminApprove(w http.ResponseWriter, r *http.Request, v *visit) {
	hash := r.PathValue("hash")
	err := error(ErrHeldChanged)
	if heldHash.MatchString(hash) {
		err = s.o.Admin.Approve(r.Context(), v.session.User, hash)
	}
	switch {
	case errors.Is(err, ErrHeldChanged):
		s.heldList(w, r, v, http.StatusConflict, "changed")
	case errors.Is(err, ErrHeldApproved):
		s.problemPage(w, r, v, http.StatusConflict, problemData{Code: "held_approved", Retry: "/admin/held"})
	case err != nil:
		s.broken(w, r, v, err)
	default:
		// No line of these is left out: who approved what has to be found again.
		s.o.Logger.LogAttrs(r.Context(), slog.LevelInfo, "held changes approved on the page", slog.Int64("user", v.session.User), slog.String("hash", hash))
		http.Redirect(w, r, "/admin/held?done=1", http.StatusSeeOther)
	}
}

func (s adminPages) adminSearch(w http.ResponseWriter, r *http.Request, v *visit) {
	d := adminData{Tab: "adminsearch", Search: short(strings.TrimSpace(r.URL.Query().Get("q"))), Verbs: uses}
	if d.Search != "" {
		var err error
		if d.Found, err = s.o.Admin.Search(d.Search, findMost); err != nil {
			s.broken(w, r, v, err)
			return
		}
	}
	s.page(w, r, v, "adminsearch", d)
}

func (s adminPages) adminUser(w http.ResponseWriter, r *http.Request, v *visit) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		s.notFound(w, r, v)
		return
	}
	page := pageNumber(r.URL.Query())
	user, ok, err := s.o.Admin.User(id, (page-1)*perPage, perPage)
	switch {
	case err != nil:
		s.broken(w, r, v, err)
	case !ok:
		s.notFound(w, r, v)
	default:
		d := adminData{Tab: "adminsearch", User: user, Verbs: uses, Who: strconv.FormatInt(id, 10)}
		d.Pager = newPager(r.URL, page, len(user.Rights), user.Total)
		s.page(w, r, v, "adminuser", d)
	}
}

func (s adminPages) adminNamespace(w http.ResponseWriter, r *http.Request, v *visit) {
	ns, ok, err := s.o.Admin.Namespace(r.PathValue("name"))
	switch {
	case err != nil:
		s.broken(w, r, v, err)
	case !ok:
		s.notFound(w, r, v)
	default:
		d := adminData{Tab: "adminsearch", Namespace: ns, Verbs: uses, asked: asked{Namespace: ns.Name}}
		d.Namespace.Holders, d.Pager = cut(r.URL, ns.Holders)
		s.page(w, r, v, "adminnamespace", d)
	}
}

func (s adminPages) adminExplain(w http.ResponseWriter, r *http.Request, v *visit) {
	query := r.URL.Query()
	d := adminData{Tab: "adminsearch", asked: askedBy(query), Who: short(strings.TrimSpace(query.Get("user"))), Verbs: uses}
	q, whole := d.question()
	if whole && d.Who != "" {
		e, ok, err := s.o.Admin.Explain(r.Context(), d.Who, q)
		if err != nil {
			s.broken(w, r, v, err)
			return
		}
		d.Asked, d.Unknown, d.Explanation = ok, !ok, e
	}
	s.page(w, r, v, "adminexplain", d)
}
