package app

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// CheckClusterRoles looks up the ClusterRoles that a configuration names, and returns which of them nobody could be given.
// What could not be looked up, because there is no way to the cluster from here, is no fault: unknown says why.
func CheckClusterRoles(ctx context.Context, cfg *config.Config) (unknown string, err error) {
	c, err := connect(cfg)
	if err != nil {
		return err.Error(), nil //nolint:nilerr // see above
	}
	reader, err := newRoles(cfg, c)
	if err != nil {
		return "", err
	}
	roles := reader.Look(ctx)
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		r := roles[name]
		if r.Exists.Verdict != clusterroles.No && r.Bindable.Verdict == clusterroles.Unknown {
			unknown = r.Bindable.Reason
			delete(roles, name)
		}
	}
	var faults []error
	for _, f := range rbacsync.RoleFindings(roles) {
		faults = append(faults, errors.New(f.Text))
	}
	return unknown, errors.Join(faults...)
}
