package gitlab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Sample says how much of a Snapshot is compared with GitLab's own lists of members.
type Sample struct {
	// Size is the number of groups and projects; 0 or negative: none.
	Size int
	// Budget is how many requests of members/all the first look may take; default 60, because GitLab allows 200 a
	// minute. Sources with so many members that they don't fit are left out.
	Budget int
	// Pause is the wait before a difference is looked at again; default 10 s. GitLab refreshes its authorizations in
	// the background.
	Pause time.Duration
	// Rand is the source of chance; nil: the program's own.
	Rand *rand.Rand
}

// SampleReport is what became of a sample.
type SampleReport struct {
	Checked     []authz.SourceID // compared
	Unread      []authz.SourceID // could not be compared
	Differences int              // people, in all checked sources together
	Findings    []authz.Finding  // one for each source with differences
}

// CheckSample compares a random sample of a Snapshot, just read, with GitLab's own lists of members (members/all),
// and so with a computation that shares nothing with ours. Where both differ, the source and all it depends on is
// read again, and so is the list: what changed in between is no difference. What is known to differ is passed over
// (authz.CompareMembers). The error is for when GitLab could not be asked at all.
func (r *Reader) CheckSample(ctx context.Context, s *authz.Snapshot, o Sample) (SampleReport, error) {
	var report SampleReport
	var suspects []authz.SourceID
	for _, id := range pickSample(s, o, r.api.pageSize, r.api.now()) {
		listed, err := r.EffectiveMembers(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return report, ctx.Err()
			}
			if global(err) {
				return report, fmt.Errorf("checking a sample of the memberships: %w", err)
			}
			report.Unread = append(report.Unread, id)
			continue
		}
		report.Checked = append(report.Checked, id)
		if len(authz.CompareMembers(s, id, listed, r.api.now())) > 0 {
			suspects = append(suspects, id)
		}
	}
	if len(suspects) == 0 {
		return report, nil
	}
	if o.Pause == 0 {
		o.Pause = 10 * time.Second
	}
	if err := sleep(ctx, o.Pause); err != nil {
		return report, err
	}
	for _, id := range suspects {
		diff, err := r.lookAgain(ctx, s, id)
		switch {
		case ctx.Err() != nil:
			return report, ctx.Err()
		case err != nil && global(err):
			return report, fmt.Errorf("looking again at a difference in the memberships of %s: %w", id, err)
		case err != nil:
			report.Checked = slices.DeleteFunc(report.Checked, func(c authz.SourceID) bool { return c == id })
			report.Unread = append(report.Unread, id)
		case len(diff) > 0:
			report.Differences += len(diff)
			report.Findings = append(report.Findings, authz.DifferenceFinding(id, diff))
		}
	}
	return report, nil
}

var errUntouchable = errors.New("what it depends on could not be read")

// lookAgain compares one source after reading it, what it depends on, and GitLab's list once more.
func (r *Reader) lookAgain(ctx context.Context, s *authz.Snapshot, id authz.SourceID) ([]authz.Difference, error) {
	fresh, err := r.Refresh(ctx, s, dependencies(s, id))
	if err != nil {
		return nil, err
	}
	if _, untouchable := fresh.Incomplete()[id]; untouchable {
		return nil, errUntouchable
	}
	listed, err := r.EffectiveMembers(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil // it was deleted meanwhile
	}
	if err != nil {
		return nil, err
	}
	return authz.CompareMembers(fresh, id, listed, r.api.now()), nil
}

// pickSample chooses sources by chance, among those that were read completely, as far as the budget goes.
func pickSample(s *authz.Snapshot, o Sample, pageSize int, now time.Time) []authz.SourceID {
	if o.Budget <= 0 {
		o.Budget = 60
	}
	if o.Size <= 0 || s.MissingAll != "" {
		return nil
	}
	untouchable := s.Incomplete()
	resolver := authz.NewResolver(s, now)
	all := make([]authz.SourceID, 0, len(s.Groups)+len(s.Projects))
	for id := range s.Groups {
		all = append(all, authz.GroupID(id))
	}
	for id := range s.Projects {
		all = append(all, authz.ProjectID(id))
	}
	slices.SortFunc(all, authz.SourceID.Compare) // so that a given Rand gives a given sample
	shuffle := rand.Shuffle
	if o.Rand != nil {
		shuffle = o.Rand.Shuffle
	}
	shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var out []authz.SourceID
	for _, id := range all {
		if len(out) == o.Size || o.Budget <= 0 {
			break
		}
		if untouchable[id] != "" {
			continue
		}
		if pages := resolver.Members(id).Len()/pageSize + 1; pages <= o.Budget {
			o.Budget -= pages
			out = append(out, id)
		}
	}
	return out
}

// dependencies returns the source and every group that can give somebody a membership in it.
func dependencies(s *authz.Snapshot, id authz.SourceID) []authz.SourceID {
	seen := map[authz.SourceID]bool{id: true}
	out := []authz.SourceID{id}
	var group func(id int64)
	group = func(id int64) {
		if id == 0 || seen[authz.GroupID(id)] {
			return
		}
		seen[authz.GroupID(id)] = true
		out = append(out, authz.GroupID(id))
		group(s.Groups[id].Parent)
		for _, l := range s.Groups[id].Links {
			group(l.Group)
		}
	}
	switch id.Kind {
	case authz.GroupSource:
		delete(seen, id)
		out = nil
		group(id.ID)
	case authz.ProjectSource:
		group(s.Projects[id.ID].Group)
		for _, l := range s.Projects[id.ID].Links {
			group(l.Group)
		}
	case authz.UserSource:
	}
	return out
}
