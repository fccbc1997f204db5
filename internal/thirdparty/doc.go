// SPDX-License-Identifier: MIT

// Package thirdparty runs published network libraries on a Net: they expect more of a connection than a test of our own
// would think of. It has tests only, in a module of its own, so that the root module does not depend on what they need.
package thirdparty
