package authz

import (
	"cmp"
	"fmt"
	"maps"
)

// Untouchable returns the sources whose rights can't be judged in this round, with the reason: those that are Incomplete, and
// where an extra mapping depends on a group that is. Unread is not empty, so nothing of theirs may be changed.
func (p Policy) Untouchable(s *Snapshot) map[SourceID]string {
	out := s.Incomplete()
	for _, h := range p.dependent(newIncomplete(s)) {
		for _, src := range p.Sources(s) {
			if out[src.ID] == "" && h.extra.covers(s, src.ID) {
				out[src.ID] = h.why
			}
		}
	}
	return out
}

// UntouchableAfter is Untouchable of a Snapshot, by what it was of the one before and which sources can differ since (Affected):
// what a hook costs does not depend on the size of GitLab. A test compares the two.
func (p Policy) UntouchableAfter(before map[SourceID]string, s *Snapshot, affected map[SourceID]bool) map[SourceID]string {
	out := maps.Clone(before)
	if out == nil {
		out = map[SourceID]string{}
	}
	u := newIncomplete(s)
	dependent := p.dependent(u)
	for id := range affected {
		why := u.source(id)
		for _, h := range dependent {
			if _, gets := p.Source(s, id); why == "" && gets && h.extra.covers(s, id) {
				why = h.why
			}
		}
		if delete(out, id); why != "" {
			out[id] = why
		}
	}
	return out
}

// dependentExtra is an extra mapping that depends on a group which is incomplete, and why it is.
type dependentExtra struct {
	extra ExtraRole
	why   string
}

func (p Policy) dependent(u incomplete) (out []dependentExtra) {
	for _, e := range p.extra {
		if _, known := u.snap.Groups[e.Group]; e.Group == 0 || (!known && u.snap.Missing[GroupID(e.Group)] == "") {
			continue // a group that is gone from GitLab is a finding, and gives nothing
		}
		if why := u.group(e.Group); why != "" {
			out = append(out, dependentExtra{e, why})
		}
	}
	return out
}

// Incomplete returns the sources whose members are not completely known, with the reason: something that feeds their
// membership was not read.
func (s *Snapshot) Incomplete() map[SourceID]string {
	u, out := newIncomplete(s), map[SourceID]string{}
	note := func(id SourceID) {
		if why := u.source(id); why != "" {
			out[id] = why
		}
	}
	for id := range s.Groups {
		note(GroupID(id))
	}
	for id := range s.Projects {
		note(ProjectID(id))
	}
	if len(s.Missing) > 0 || s.MissingAll != "" {
		for id := range s.Users {
			note(UserID(id))
		}
	}
	maps.Copy(out, s.Missing)
	return out
}

// incomplete walks what a source depends on and returns the first thing that is missing.
type incomplete struct {
	snap   *Snapshot
	groups map[int64]string
}

func newIncomplete(s *Snapshot) incomplete { return incomplete{snap: s, groups: map[int64]string{}} }

// source returns what is missing of a source: itself, what feeds its membership, or, if it is known at all, a whole list.
func (u incomplete) source(id SourceID) string {
	why := u.snap.Missing[id]
	if why != "" || !u.snap.Contains(id) {
		return why
	}
	switch id.Kind {
	case GroupSource:
		why = u.group(id.ID)
	case ProjectSource:
		why = u.project(u.snap.Projects[id.ID])
	case UserSource:
	}
	return cmp.Or(why, u.snap.MissingAll)
}

func (u incomplete) group(id int64) string {
	if id == 0 {
		return ""
	}
	if why, ok := u.groups[id]; ok {
		return why
	}
	u.groups[id] = cycle(id)
	why := u.self(id)
	if why == "" {
		why = u.group(u.snap.Groups[id].Parent)
	}
	for _, l := range u.snap.Groups[id].Links {
		if why == "" {
			why = u.self(l.Group)
		}
	}
	u.groups[id] = why
	return why
}

func (u incomplete) project(p Project) string {
	why := u.snap.Missing[ProjectID(p.ID)]
	if why == "" {
		why = u.group(p.Group)
	}
	for _, l := range p.Links {
		if why == "" {
			why = u.group(l.Group)
		}
	}
	return why
}

// cycle is what a group's answer is while its ancestors are walked: who meets it again has come round in a circle.
func cycle(id int64) string {
	return fmt.Sprintf("%s is its own ancestor, which can't be: GitLab's answer is not consistent", GroupID(id))
}

// self says why a group's own rows are unknown. A group that is named but not in the Snapshot is invisible to
// the reading token, which is the same as unread.
func (u incomplete) self(id int64) string {
	if why := u.snap.Missing[GroupID(id)]; why != "" {
		return why
	}
	if _, ok := u.snap.Groups[id]; !ok {
		return fmt.Sprintf("%s is referred to but was not readable: the reading token needs an administrator's view", GroupID(id))
	}
	return ""
}
