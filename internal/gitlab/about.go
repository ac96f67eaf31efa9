package gitlab

import (
	"context"
	"errors"
	"fmt"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// About reads single people and projects, with what those are in, and no members: what says whether somebody is let in,
// without reading everything. What GitLab does not have, or does not show to our token, is not in the Snapshot; what could
// not be read is in Missing. The error is for when ctx ended.
func (r *Reader) About(ctx context.Context, ids ...authz.SourceID) (*authz.Snapshot, error) {
	s := &authz.Snapshot{
		Taken: r.api.now(), Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{},
	}
	for len(ids) > 0 {
		id := ids[0]
		ids = ids[1:]
		err := readAbout(ctx, r.api, s, id)
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("reading %s from GitLab: %w", id, ctx.Err())
		case errors.Is(err, errAbsent):
		case err != nil:
			s.Missing[id] = err.Error()
		default:
			if parent, ok := s.Parent(id); ok && !s.Contains(parent) {
				ids = append(ids, parent)
			}
		}
	}
	inPlace(s).inheritFlags()
	return s, nil
}

// readAbout reads one thing into the Snapshot.
func readAbout(ctx context.Context, a *api, s *authz.Snapshot, id authz.SourceID) error {
	nowhere := func(string) int64 { return 0 }
	at := places{group: nowhere, user: nowhere}
	switch id.Kind {
	case authz.GroupSource:
		rg, err := a.group(ctx, id.ID)
		if err != nil {
			return err
		}
		g := rg.group()
		if err := at.findParent(&g); err != nil {
			return err
		}
		s.Groups[id.ID] = g
	case authz.ProjectSource:
		rp, err := a.project(ctx, id.ID)
		if err != nil {
			return err
		}
		p, err := rp.project(at)
		if err != nil {
			return err
		}
		s.Projects[id.ID] = p
	case authz.UserSource:
		u, err := a.user(ctx, id.ID, false, false)
		if err != nil {
			return err
		}
		s.Users[id.ID] = u
	}
	return nil
}
