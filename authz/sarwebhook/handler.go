// Package sarwebhook serves POST /authorize, the SubjectAccessReview webhook that kube-apiserver asks about what
// RBAC did not allow. It never allows and never denies anything: it has no opinion, and gives the reason, which
// kubectl prints to the person. It keeps no state and makes no call to GitLab or Kubernetes.
package sarwebhook

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// maxBody bounds a review; kube-apiserver's are a few hundred bytes, plus the person's groups and extra fields.
const maxBody = 1 << 20

// anonymous is kube-apiserver's name for a request without credentials.
const anonymous = "system:anonymous"

// Handler answers SubjectAccessReviews of authorization.k8s.io/v1. view returns the state to explain from; ok is
// false until the first one was read. loginHint is told to anonymous requests even then.
//
// proof returns what authn put into the extra fields of an identity (kubename.ExtraProof). Tenants may create
// LocalSubjectAccessReviews about anybody, which no admission policy can refuse and which look here like real
// requests; but they don't know another person's proof, and without it nothing is told about anybody.
func Handler(view func() (v authz.View, ok bool), proof func(username string) string, loginHint string, now func() time.Time, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review, status, err := decode(w, r)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		v, ok := view()
		reason := "you are not logged in. " + loginHint
		if review.Spec.User != anonymous {
			reason = explain(v, ok, proven(review.Spec, proof), review.Spec, now())
		}
		log.DebugContext(r.Context(), "explained a refusal", "user", review.Spec.User, "reason", reason)
		answer := authorizationv1.SubjectAccessReview{
			TypeMeta: review.TypeMeta,
			Status:   authorizationv1.SubjectAccessReviewStatus{Reason: reason},
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.WarnContext(r.Context(), "writing a SubjectAccessReview answer", "error", err)
		}
	})
}

// notTheAsker is all that is said about a GitLab identity without its proof.
const notTheAsker = "GitLab's roles do not allow this. Why is told to the person alone, who asks with a login of his own."

// proven reports whether the review carries the proof that authn gave to this identity at login.
func proven(spec authorizationv1.SubjectAccessReviewSpec, proof func(string) string) bool {
	got := spec.Extra[kubename.ExtraProof]
	return len(got) == 1 && subtle.ConstantTimeCompare([]byte(got[0]), []byte(proof(spec.User))) == 1
}

// explain chooses the explanation by the kind of identity, which its name tells. What it says of a CI
// ServiceAccount is in that name already.
func explain(v authz.View, ready, proven bool, spec authorizationv1.SubjectAccessReviewSpec, now time.Time) string {
	q := question(spec)
	if ns, ok := kubename.ParseServiceAccountUser(spec.User); ok {
		return v.CIServiceAccount(ns, q)
	}
	project, isJob := kubename.ParseCIJob(spec.User)
	user, isPerson := kubename.ParseUser(spec.User)
	switch {
	case !isJob && !isPerson:
		return ""
	case !proven:
		return notTheAsker
	case !ready:
		return "GitLab's rights were not read yet since the integrator started. Try again in a minute."
	case isJob:
		return v.CIJob(project, q)
	}
	return v.Person(user, q, now)
}

func question(spec authorizationv1.SubjectAccessReviewSpec) authz.Question {
	if a := spec.ResourceAttributes; a != nil {
		resource := a.Resource
		if a.Subresource != "" {
			resource += "/" + a.Subresource
		}
		return authz.Question{Namespace: a.Namespace, Verb: a.Verb, Resource: resource}
	}
	if a := spec.NonResourceAttributes; a != nil {
		return authz.Question{Verb: a.Verb}
	}
	return authz.Question{}
}

// decode reads a review and returns the HTTP status for what it refuses.
func decode(w http.ResponseWriter, r *http.Request) (*authorizationv1.SubjectAccessReview, int, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, http.StatusMethodNotAllowed, errors.New("want POST with a SubjectAccessReview")
	}
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return nil, http.StatusUnsupportedMediaType, errors.New("want Content-Type application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
			return nil, http.StatusRequestEntityTooLarge, errors.New("the review is larger than 1 MiB")
		}
		return nil, http.StatusBadRequest, errors.New("the review could not be read to its end")
	}
	review := new(authorizationv1.SubjectAccessReview)
	if err := json.Unmarshal(body, review); err != nil {
		return nil, http.StatusBadRequest, errors.New("the body is not the JSON of a SubjectAccessReview")
	}
	if review.APIVersion != authorizationv1.SchemeGroupVersion.String() || review.Kind != "SubjectAccessReview" {
		return nil, http.StatusBadRequest,
			errors.New("want kind SubjectAccessReview of authorization.k8s.io/v1: set subjectAccessReviewVersion: v1 in the API server's authorization configuration")
	}
	return review, 0, nil
}
