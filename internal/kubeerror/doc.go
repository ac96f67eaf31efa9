// Package kubeerror tells administrators what to do about errors of kube-apiserver.
package kubeerror
