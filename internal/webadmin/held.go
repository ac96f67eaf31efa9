package webadmin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Held implements web.Admin.
func (a *Admin) Held(ctx context.Context) ([]web.HeldPart, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	items, err := a.o.Held.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what is held: %w", err)
	}
	approved, err := a.o.Held.Approvals(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what is approved: %w", err)
	}
	var out []web.HeldPart
	for _, s := range rbacsync.Sections(items) {
		shown := s.Items[:min(len(s.Items), maxLines)]
		p := web.HeldPart{
			Hash: s.Hash, Place: s.Place(), Why: s.Items[0].Why, Policy: s.Items[0].Change != "", More: s.Count() - len(shown), Approved: a.approver(s.Items, approved),
		}
		if path := a.path(s.Scope); path != "" {
			p.Place = path + " (" + s.Scope.String() + ")"
		}
		for _, i := range shown {
			l := web.HeldLine{New: i.Role == "", Source: i.Source.String(), Path: i.Path, User: i.User, Name: cmp.Or(i.Name, "?"), Role: i.Role, Cause: i.Cause.String()}
			switch path := a.path(i.Cause); {
			case i.Change != "":
				l.Cause = s.Place()
			case path != "":
				l.Cause = path + " (" + l.Cause + ")"
			}
			p.Lines = append(p.Lines, l)
		}
		out = append(out, p)
	}
	return out, nil
}

// path returns what people call something in GitLab; "" if that is not known.
func (a *Admin) path(id authz.SourceID) string {
	if v, ok := a.o.View(); ok {
		path, _ := v.Snapshot.Path(id)
		return path
	}
	return ""
}

// approver returns who approved all of these, "" if nobody did.
func (a *Admin) approver(items []rbacsync.Item, approved map[string]string) string {
	by := ""
	for _, i := range items {
		one, ok := approved[i.Key()]
		if !ok {
			return ""
		}
		by = cmp.Or(by, one)
	}
	if id, ok := kubename.ParseUser(by); ok {
		if name := a.path(authz.UserID(id)); name != "" {
			return name + " (" + by + ")"
		}
	}
	return cmp.Or(by, "an administrator")
}

// Approve implements web.Admin.
func (a *Admin) Approve(ctx context.Context, by int64, hash string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	items, err := a.o.Held.Load(ctx)
	if err != nil {
		return fmt.Errorf("reading what is held: %w", err)
	}
	if !slices.ContainsFunc(rbacsync.Sections(items), func(s rbacsync.Section) bool { return s.Hash == hash }) { // all of it has a hash, too, that nobody was shown
		return web.ErrHeldChanged
	}
	switch items, err = a.o.Held.Approve(ctx, hash, kubename.User(by)); {
	case errors.Is(err, rbacsync.ErrNoSuchHash):
		return web.ErrHeldChanged
	case errors.Is(err, store.ErrApproved):
		return web.ErrHeldApproved
	case err != nil:
		return fmt.Errorf("approving what is held: %w", err)
	}
	var named []authz.SourceID
	for _, i := range items {
		if !slices.Contains(named, i.Source) && len(named) < maxHints {
			named = append(named, i.Source)
		}
	}
	if err := a.o.Hint(ctx, named, "approval"); err != nil { // it goes on with the next round then
		a.o.Logger.WarnContext(ctx, "the leader was not told of an approval, and finds it by itself", "error", err)
	}
	return nil
}
