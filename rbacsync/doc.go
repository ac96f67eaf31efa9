// Package rbacsync makes the cluster say what GitLab says: it reads GitLab through a Reader, computes what should
// be in the cluster (Desired), compares it with what is (Observe, Plan) and writes the difference (Apply).
//
// It promises that Desired and Plan are pure, that a plan does not depend on the order of its input and is empty
// once it was applied, that revocations are written before anything else, that every write carries the
// resourceVersion it was planned on, and that only objects with our owner mark are ever changed.
//
// It does not decide who has which right (authz does), it does not know GitLab's API (a Reader does), and it
// deletes no namespace: a namespace whose GitLab side is gone loses its rights and is kept.
package rbacsync
