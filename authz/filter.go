package authz

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Filter says what is left out: it gets no namespace, and people who are left out get no rights. What is left out
// stays part of GitLab's membership: people inherit from a group without a namespace as before. Ids are the sure way;
// a path or user name can be changed by its owner, so a pattern can only take away, never give.
type Filter struct {
	// Sources are left out by id: a group with everything below it, a project, or a user with their personal projects.
	Sources []SourceID
	// Paths are patterns of full paths of groups and projects; what is below a match is left out, too.
	Paths []string
	// People are patterns of user names.
	People []string
}

// filter is a Filter that was checked.
type filter struct {
	ids   map[SourceID]bool
	paths []pattern
	users []pattern
}

func newFilter(f Filter) (filter, error) {
	out := filter{ids: map[SourceID]bool{}}
	var errs []error
	for i, id := range f.Sources {
		if back, ok := ParseLabel(id.Label()); !ok || back != id {
			errs = append(errs, fmt.Errorf("exclude.sources[%d]: %s is not a group, project or user", i, id))
		}
		out.ids[id] = true
	}
	for _, list := range []struct {
		name string
		from []string
		to   *[]pattern
	}{{"paths", f.Paths, &out.paths}, {"people", f.People, &out.users}} {
		for i, text := range list.from {
			p, err := newPattern(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("exclude.%s[%d]: %w", list.name, i, err))
			}
			*list.to = append(*list.to, p)
		}
	}
	return out, errors.Join(errs...)
}

func (f *filter) user(u User) bool {
	return f.ids[UserID(u.ID)] || matchesAny(f.users, u.Username)
}

func (f *filter) group(s *Snapshot, id int64) bool {
	if matchesAny(f.paths, s.Groups[id].Path) {
		return true
	}
	for at := range s.Up(GroupID(id)) {
		if f.ids[at] {
			return true
		}
	}
	return false
}

func (f *filter) project(s *Snapshot, p Project) bool {
	return f.ids[ProjectID(p.ID)] || matchesAny(f.paths, p.Path) ||
		(p.Group != 0 && f.group(s, p.Group)) || (p.Owner != 0 && f.user(s.Users[p.Owner]))
}

// pattern is a path in segments. In a segment "*" stands for any characters and "?" for one; a segment "**" stands
// for any number of segments. Case does not count, as in GitLab. A pattern matches what is below a match, too.
type pattern []string

func newPattern(text string) (pattern, error) {
	p := pattern(strings.Split(strings.ToLower(strings.Trim(text, "/")), "/"))
	for _, seg := range p {
		if _, err := path.Match(seg, ""); err != nil || seg == "" || strings.ContainsAny(seg, `[]\`) {
			return nil, fmt.Errorf("%q is not a pattern: want a path in which * stands for characters of one segment and ** for any segments", text)
		}
	}
	if !slices.ContainsFunc(p, func(seg string) bool { return strings.Trim(seg, "*") != "" }) {
		return nil, fmt.Errorf("%q would leave out everything", text)
	}
	return p, nil
}

func (p pattern) match(segments []string) bool {
	switch {
	case len(p) == 0:
		return true // what is left is below the match
	case p[0] == "**":
		for i := range len(segments) + 1 {
			if p[1:].match(segments[i:]) {
				return true
			}
		}
		return false
	case len(segments) == 0:
		return false
	}
	ok, err := path.Match(p[0], segments[0])
	return err == nil && ok && p[1:].match(segments[1:])
}

func matchesAny(patterns []pattern, name string) bool {
	if len(patterns) == 0 {
		return false
	}
	segments := strings.Split(strings.ToLower(name), "/")
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(segments) })
}
