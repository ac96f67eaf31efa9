package app

import (
	"context"
	"errors"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// integration hands CI credentials over as GitLab's deprecated cluster integration.
type integration struct{ api *gitlab.Clusters }

// Ensure implements ci.ClusterWriter.
func (i integration) Ensure(ctx context.Context, project int64, scope string, c ci.Cluster, namespace, token string, claim ci.Claim) (bool, error) {
	wrote, err := i.api.Ensure(ctx, project, gitlab.ProjectCluster{
		Name: scope, Scope: scope, APIURL: c.URL, CA: string(c.CA), Namespace: namespace, Token: token,
	}, claimed(claim))
	if other, ok := errors.AsType[*gitlab.OtherClusterError](err); ok {
		err = &ci.OtherClusterError{Project: project, Scope: scope, Cluster: other.Cluster}
	}
	return wrote, err
}

// Remove implements ci.ClusterWriter.
func (i integration) Remove(ctx context.Context, project int64, scope string, c ci.Cluster, claim ci.Claim) error {
	_, err := i.api.Remove(ctx, project, []string{scope}, c.URL, claimed(claim))
	return err
}

// Look implements ci.ClusterWriter.
func (i integration) Look(ctx context.Context, project int64, scope string, c ci.Cluster, namespace string, claim ci.Claim) (string, error) {
	return i.api.Look(ctx, project, gitlab.ProjectCluster{Scope: scope, APIURL: c.URL, CA: string(c.CA), Namespace: namespace}, claimed(claim))
}

// Mark implements ci.ClusterWriter.
func (i integration) Mark(token string) string { return gitlab.TokenMark(token) }
