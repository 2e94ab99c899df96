// exp of numbers up to 0. Where a device's exp is not defined it is not asked: some make infinity of NaN.
float power(float v) { return isnan(v) ? v : v < -104.0 ? 0.0 : exp(v); }
