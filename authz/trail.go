package authz

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Trail is how somebody comes to their level in a source.
type Trail struct {
	Source SourceID
	Path   string // of Source in GitLab
	Level  Level
	Why    Reason
	// RowLevel is the level of the membership itself, before invitations capped it, and LinkLevel the lowest level that the
	// invitations on the way give at most; 0: there is none.
	RowLevel, LinkLevel Level
	Until               Date   // of the membership or an invitation on the way, the earliest; zero: no end
	Text                string // "Developer in haw/world, inherited from haw, until 2026-12-31"
}

// Kind says how the membership reaches the source: direct, inherited, invited or own.
func (t Trail) Kind() string {
	switch {
	case t.Why.Via != 0:
		return "invited"
	case t.Why.Row.Kind == UserSource:
		return "own"
	case t.Why.Row == t.Source:
		return "direct"
	}
	return "inherited"
}

// MarshalJSON writes levels and sources by name.
func (t Trail) MarshalJSON() ([]byte, error) {
	out := struct {
		Source    string `json:"source"`
		Path      string `json:"path"`
		Level     string `json:"level"`
		Kind      string `json:"kind"`
		Row       string `json:"row"`
		RowLevel  string `json:"rowLevel"`
		Via       string `json:"via,omitempty"`
		Target    string `json:"target,omitempty"`
		LinkLevel string `json:"linkLevel,omitempty"`
		Until     string `json:"until,omitempty"`
		Text      string `json:"text"`
	}{
		Source: t.Source.String(), Path: t.Path, Level: t.Level.String(), Kind: t.Kind(), Row: t.Why.Row.String(), RowLevel: t.RowLevel.String(),
		Until: t.Until.String(), Text: t.Text,
	}
	if t.Why.Via != 0 {
		out.Via, out.Target, out.LinkLevel = GroupID(t.Why.Via).String(), t.Why.Target.String(), t.LinkLevel.String()
	}
	return json.Marshal(out)
}

// Trail returns how somebody comes to their level in a source at a moment; false if they are no member there.
func (v View) Trail(user int64, id SourceID, now time.Time) (Trail, bool) {
	r := resolverOf(user, v.Snapshot, now)
	s, ok := r.Members(id).standing(user)
	if !ok {
		return Trail{}, false
	}
	return r.trail(id, s), true
}

// Trails says of one source after the other how people come to their levels there. Who asks about many people in a source
// asks about them in a row: what is known of it is kept until the next one.
type Trails struct {
	r       *Resolver
	id      SourceID
	members Members
}

// NewTrails returns the Trails of a Snapshot at a moment. At the zero time nothing has expired.
func NewTrails(s *Snapshot, now time.Time) *Trails { return &Trails{r: NewResolver(s, now)} }

// Of returns what View.Trail does, without the Text. Only where groups go round in a circle, which Snapshot.Incomplete reports, it may
// know less.
func (t *Trails) Of(user int64, id SourceID) (Trail, bool) {
	if id != t.id {
		t.id, t.members = id, t.r.Members(id)
	}
	s, ok := t.members.standing(user)
	if !ok {
		return Trail{}, false
	}
	return t.r.way(id, s), true
}

// trail is way in words.
func (r *Resolver) trail(id SourceID, s standing) Trail {
	t := r.way(id, s)
	t.Text = t.Words(func(id SourceID) string {
		if path, ok := r.snap.Path(id); ok {
			return path
		}
		return id.String()
	})
	return t
}

// way goes back the way of a standing in a source.
func (r *Resolver) way(id SourceID, s standing) Trail {
	path, _ := r.snap.Path(id)
	t := Trail{Source: id, Path: path, Level: s.level, Why: s.access().Why, RowLevel: s.level}
	for at := s; at.via != 0; {
		target := at.target.source()
		l := r.link(target, at.via)
		if t.LinkLevel == 0 || l.Level < t.LinkLevel {
			t.LinkLevel = l.Level
		}
		t.ends(l.Expires)
		if target.Kind != ProjectSource {
			break // of a group that is invited into a group its own rows count
		}
		if at, _ = (Members{r.group(at.via)}).standing(s.user); at.user == 0 {
			break
		}
	}
	if row, ok := r.row(t.Why.Row, s.user); ok {
		t.RowLevel = row.Level
		t.ends(row.Expires)
	}
	return t
}

// ends notes that something on the way ends.
func (t *Trail) ends(d Date) {
	if !d.IsZero() && (t.Until.IsZero() || d.Start().Before(t.Until.Start())) {
		t.Until = d
	}
}

// link returns the invitation of a group into a source that counts: of those that are not over, the one with the highest level.
func (r *Resolver) link(target SourceID, group int64) (best Link) {
	links := r.snap.Groups[target.ID].Links
	if target.Kind == ProjectSource {
		links = r.snap.Projects[target.ID].Links
	}
	for _, l := range links {
		if l.Group == group && !l.Expires.Over(r.now) && l.Level > best.Level {
			best = l
		}
	}
	return best
}

// row returns the membership of somebody in the source itself that counts: of those that are not over, the highest.
func (r *Resolver) row(id SourceID, user int64) (best Member, ok bool) {
	for _, m := range rowsOf(r.snap, id) {
		if m.User == user && !m.Expires.Over(r.now) && m.Level > best.Level {
			best, ok = m, true
		}
	}
	return best, ok
}

// rowsOf returns the memberships in a group or project itself.
func rowsOf(s *Snapshot, id SourceID) []Member {
	switch id.Kind {
	case GroupSource:
		return s.Groups[id.ID].Members
	case ProjectSource:
		return s.Projects[id.ID].Members
	case UserSource:
	}
	return nil
}

// What a text says about the person. No path holds a space, so none of these is part of one.
const (
	theirOwn = "because it is their own"
	theyAre  = "they are"
)

var toUser = strings.NewReplacer(theirOwn, "because it is your own", "("+theyAre+" ", "(you are ")

// ToUser is the Text of a trail, or what holds it, as it is said to the person themself.
func ToUser(text string) string { return toUser.Replace(text) }

// Words puts a trail into words, with these names of groups, projects and users.
func (t Trail) Words(named func(SourceID) string) string {
	name := func(id SourceID) string { return clean(named(id)) }
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s, ", t.Level, name(t.Source))
	switch t.Kind() {
	case "invited":
		via := GroupID(t.Why.Via)
		fmt.Fprintf(&b, "through the group %s, which is invited into %s", name(via), name(t.Why.Target))
		if t.Why.Row != via {
			fmt.Fprintf(&b, " (member of %s)", name(t.Why.Row))
		}
		if t.LinkLevel < t.RowLevel {
			fmt.Fprintf(&b, " with %s at most (%s %s)", t.LinkLevel, theyAre, t.RowLevel)
		}
	case "own":
		b.WriteString(theirOwn)
	case "direct":
		b.WriteString("direct member")
	default:
		fmt.Fprintf(&b, "inherited from %s", name(t.Why.Row))
	}
	if !t.Until.IsZero() {
		fmt.Fprintf(&b, ", until %s", t.Until)
	}
	return b.String()
}
