package authz

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Difference is a person of whom this package and GitLab's own list of members say different levels; 0 is "no
// member".
type Difference struct {
	User         int64
	Ours, Listed Level
}

// CompareMembers compares what this package computes for a source with GitLab's own answer (members/all, by user
// id), and returns where they differ, by user. It passes over what is known of that answer (source: MembersFinder,
// GroupMembersFinder and their documentation):
//
//   - people who are not active: they are listed with whatever level, and have no rights here;
//   - rows and links that are over today: GitLab lists them until its nightly job ran;
//   - people who reach a project through a group that is invited into the invited group: they have access, but no
//     list shows them;
//   - the owner of a personal project, whom older servers list as Maintainer.
//
// A server may show a level uncapped by its link for a moment, until it has refreshed its authorizations. That is a
// difference here: ask again a little later.
func CompareMembers(s *Snapshot, id SourceID, listed map[int64]Level, now time.Time) []Difference {
	ever := NewResolver(s, time.Time{})
	ours, withExpired := NewResolver(s, now).Members(id), ever.Members(id)
	users := map[int64]bool{}
	for a := range ours.All() {
		users[a.User] = true
	}
	for u := range listed {
		users[u] = true
	}
	shown := listable(s, id, ever)
	var out []Difference
	for _, u := range slices.Sorted(maps.Keys(users)) {
		d := Difference{u, ours.Level(u), listed[u]}
		user, known := s.Users[u]
		switch {
		case d.Ours == d.Listed,
			known && user.State != StateActive,
			d.Listed == NoAccess && shown != nil && !shown[u],
			d.Listed > d.Ours && d.Listed <= withExpired.Level(u),
			d.Listed == Maintainer && id.Kind == ProjectSource && s.Projects[id.ID].Owner == u:
			continue
		}
		out = append(out, d)
	}
	return out
}

// listable returns the people whom GitLab's list of a project can show at all; nil stands for everybody. For ever nothing
// has expired.
func listable(s *Snapshot, id SourceID, ever *Resolver) map[int64]bool {
	if id.Kind != ProjectSource {
		return nil
	}
	p := s.Projects[id.ID]
	shown := map[int64]bool{p.Owner: true}
	for a := range ever.Members(GroupID(p.Group)).All() {
		shown[a.User] = true
	}
	add := func(rows []Member) {
		for _, m := range rows {
			shown[m.User] = true
		}
	}
	add(p.Members)
	for _, l := range p.Links {
		walked := map[int64]bool{}
		for g := l.Group; g != 0 && !walked[g]; g = s.Groups[g].Parent {
			walked[g] = true
			add(s.Groups[g].Members)
		}
	}
	return shown
}

// DifferenceFinding tells an administrator of differences in one source. It names people by their numbers.
func DifferenceFinding(id SourceID, diff []Difference) Finding {
	const named = 3
	var b strings.Builder
	for i, d := range diff[:min(len(diff), named)] {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "gitlab user %d has %q by our reading, %q by GitLab's own list", d.User, d.Ours, d.Listed)
	}
	if len(diff) > named {
		fmt.Fprintf(&b, "; and %d more", len(diff)-named)
	}
	return Finding{Code: "membership_differs", Source: id, Text: b.String()}
}
