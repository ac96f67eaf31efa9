package audit

import (
	"cmp"
	"regexp"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// reasons says why somebody gained or lost something, by GitLab before and after. What it says has neither name nor id of a
// person: what belongs to one is written without its path, so that pseudonymised entries stay so.
type reasons struct {
	now, before *authz.Snapshot // before may be nil
	at          time.Time
	many        map[moment]*wayWords // nil: few are asked about
}

// moment is of which Snapshot it is said how people come to their levels, and when.
type moment struct {
	of *authz.Snapshot
	at time.Time
}

// wayWords has the words for the ways to a level in one source: most people there came by few.
type wayWords struct {
	trails *authz.Trails
	source authz.SourceID
	words  map[authz.Trail]string // of source
}

// trail says how somebody comes to their level in a source; false if they are no member.
func (r reasons) trail(s *authz.Snapshot, user int64, id authz.SourceID, at time.Time) (authz.Trail, bool) {
	if s == nil {
		return authz.Trail{}, false
	}
	if r.many == nil {
		t, ok := authz.View{Snapshot: s}.Trail(user, id, at)
		t.Text = wordsOf(t, s)
		return t, ok
	}
	m := moment{s, at}
	w := r.many[m]
	if w == nil {
		w = &wayWords{trails: authz.NewTrails(s, at)}
		r.many[m] = w
	}
	t, ok := w.trails.Of(user, id)
	if !ok {
		return t, false
	}
	if id != w.source || w.words == nil {
		w.source, w.words = id, map[authz.Trail]string{}
	}
	text, ok := w.words[t]
	if !ok {
		text = wordsOf(t, s)
		w.words[t] = text
	}
	t.Text = text
	return t, true
}

func wordsOf(t authz.Trail, s *authz.Snapshot) string {
	return t.Words(func(id authz.SourceID) string {
		if path, ok := s.Path(id); ok && !personal(s, id) {
			return path
		}
		return impersonal(id.String())
	})
}

// personal reports whether a source is a person's, or may be.
func personal(s *authz.Snapshot, id authz.SourceID) bool {
	switch id.Kind {
	case authz.GroupSource:
		return false
	case authz.ProjectSource:
		p, ok := s.Projects[id.ID]
		return !ok || p.Owner != 0 || p.Group == 0
	case authz.UserSource:
	}
	return true
}

var userSource = regexp.MustCompile(`\buser/\d+\b`)

// impersonal writes a person's personal namespace without their id.
func impersonal(text string) string {
	return userSource.ReplaceAllString(text, "their own namespace")
}

// What follows a source in the reasons of rbacsync: its path, or where its namespace is.
var (
	pathInBrackets = regexp.MustCompile(`^ \(.*\)( is gone )`)
	pathAfter      = regexp.MustCompile(`^ [^\s,;:]+`)
	homeAfter      = regexp.MustCompile(`^ is [^\s,;:]+`)
)

// withoutPath takes the path of a source out of the reason of a change, and the name of its namespace.
func withoutPath(text string, id authz.SourceID) string {
	before, after, ok := strings.Cut(text, id.String())
	if !ok {
		return text
	}
	switch {
	case before != "":
		after = homeAfter.ReplaceAllString(after, " is another one")
	case pathInBrackets.MatchString(after):
		after = pathInBrackets.ReplaceAllString(after, "$1")
	default:
		after = pathAfter.ReplaceAllString(after, "")
	}
	return before + id.String() + after
}

// personal reports whether a source is or was a person's, or may have been: neither Snapshot knows it.
func (r reasons) personal(id authz.SourceID) bool {
	known := false
	for _, s := range []*authz.Snapshot{r.now, r.before} {
		if s != nil && s.Contains(id) {
			if known = true; personal(s, id) {
				return true
			}
		}
	}
	return !known && id.Kind != authz.GroupSource
}

// plain is why a change was planned, in its own words.
func (r reasons) plain(p *place, c rbacsync.Change) string {
	why := c.Why
	if id := cmp.Or(c.Source, p.source); r.personal(id) {
		why = withoutPath(why, id)
	}
	return impersonal(why)
}

// Reasons, or parts of them, that name no group and no project.
const (
	foundThere  = "it was there: somebody else gave it, or it was not recorded"
	foundGone   = "it was gone: somebody else took it, or it was not recorded"
	endedByDate = "that is over"
	endedNow    = "that is gone"
	accountGone = "the account is gone from GitLab"
	accountIs   = "the account is "
)

// membership begins what is said of a trail: see authz.Trail.Words. No level holds " in ".
var membership = regexp.MustCompile(`^((?:was |now )?(?:[A-Z][A-Za-z]+(?: [A-Za-z]+)*?|level \d+)) in \S`)

// Placeless is what of an Entry's Why names no group and no project, by path or by id: for who has a right in a namespace and may not
// know what it belongs to. "" if nothing is left.
func Placeless(why string) string {
	if why == foundThere || why == foundGone {
		return why
	}
	var parts []string
	for part := range strings.SplitSeq(why, "; ") { // no path holds a space
		switch m := membership.FindStringSubmatch(part); {
		case m != nil:
			parts = append(parts, m[1])
		case part == endedByDate, part == endedNow, part == accountGone, strings.HasPrefix(part, accountIs):
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "; ")
}

func (r reasons) gained(p *place, h holder, c rbacsync.Change) string {
	if h.user != 0 {
		if t, ok := r.trail(r.now, h.user, p.source, r.at); ok {
			return t.Text
		}
	}
	return r.plain(p, c)
}

func (r reasons) lost(p *place, h holder, c rbacsync.Change) string {
	if h.user == 0 {
		return r.plain(p, c)
	}
	var parts []string
	// At the zero time nothing is over: what ended by its date is in it as well.
	was, had := r.trail(r.before, h.user, p.source, time.Time{})
	if had {
		parts = append(parts, "was "+was.Text)
	}
	is, has := r.trail(r.now, h.user, p.source, r.at)
	u, known := r.now.Users[h.user]
	switch {
	case !known && !unread(r.now, h.user):
		parts = append(parts, accountGone)
	case known && u.State != authz.StateActive:
		parts = append(parts, accountIs+rbacsync.Printable(string(u.State)))
	case !r.now.Contains(p.source) && r.now.MissingAll == "" && r.now.Missing[p.source] == "":
		parts = append(parts, impersonal(p.source.String())+" is gone from GitLab")
	case has && had && is.Text == was.Text: // the configuration, or somebody else
		parts = append(parts[:0], is.Text, r.plain(p, c))
	case has:
		parts = append(parts, "now "+is.Text)
	case had && was.Until.Over(r.at):
		parts = append(parts, endedByDate)
	case had:
		parts = append(parts, endedNow)
	default:
		parts = append(parts, r.plain(p, c))
	}
	return strings.Join(parts, "; ")
}
